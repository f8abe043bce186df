"""Section `mcp`."""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class MCPConfig(Section):
    enabled: bool = Field(True, description="serve memory to MCP clients at `/mcp`")
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="origins of web pages that may call `/mcp`, such as `https://chat.example.com`; pages of "
        "this machine always may",
    )
    request_bytes: int = Field(1 << 20, ge=1024, description="largest body of one MCP request")
    body_seconds: float = Field(
        10.0, gt=0, description="time in which the body of an MCP request has to arrive"
    )
