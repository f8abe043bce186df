"""The request's principal, for code that is reached through vLLM's own handlers.

Set by the door for the task that serves the request; tasks and streams started from it inherit it.
"""

from __future__ import annotations

from contextvars import ContextVar

from memos_vllm.governance.principal import Principal

PRINCIPAL: ContextVar[Principal | None] = ContextVar("memos_principal", default=None)
