"""The request's principal as a context variable, for code that is called through vLLM's handlers.

`api.auth` sets it in the task that serves the request; tasks and streams started there inherit it.
"""

from __future__ import annotations

from contextvars import ContextVar

from memos_vllm.governance.principal import Principal

PRINCIPAL: ContextVar[Principal | None] = ContextVar("memos_principal", default=None)
