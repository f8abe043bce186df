"""Configuration of `memos serve`."""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class ServeConfig(Section):
    model: str | None = Field(None, description="default model of `memos serve`")
    flags: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="vLLM flags, without dashes"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment variables of the server, unless already set"
    )
    restart: bool = Field(
        False, description="start the server again when it ends by itself or stops answering"
    )
    restart_limit: int = Field(
        5, ge=0, description="restarts in a row, without ten minutes of service between them"
    )
    stall_seconds: float = Field(
        300.0, gt=0, description="a server whose engine answers nothing for so long is ended"
    )
    start_seconds: float = Field(
        3600.0, gt=0, description="with `restart`: longest start until the first answer"
    )
    warm_up: bool = Field(
        True,
        description="answer a chat of the server's own at the start, before `GET /ready` says yes",
    )
