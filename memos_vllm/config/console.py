"""Section `console`."""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class ConsoleConfig(Section):
    enabled: bool = Field(True, description="serve the memory console at `/memory`")
    session_seconds: int = Field(
        8 * 3600, ge=60, le=7 * 86400, description="how long a sign-in lasts, at most"
    )
    secure_cookies: bool = Field(
        True,
        description="mark the session's cookie `Secure`: browsers send it over https and on this machine only; "
        "false: also over plain http",
    )
    attribution: bool = Field(
        True,
        description="offer in `Try it` to show which memory each sentence of a reply rests on: up to 9 more prompts",
    )
    url: str | None = Field(
        None,
        description="address of the server in links to a person's view, such as `https://memory.example.com`; "
        "default: that of the request",
    )
