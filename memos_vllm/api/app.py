"""Attach the Memory API to vLLM's app, or create an app without an engine for tests and tools."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from memos_vllm import metrics
from memos_vllm.api import (
    access_log,
    activation,
    claims,
    cubes,
    documents,
    entities,
    erasures,
    grants,
    insight,
    migration,
    policies,
    profile,
    reader,
    ready,
    responses,
    restores,
    store,
    tokens,
    transforms,
    use,
)
from memos_vllm.api.anthropic_errors import AnthropicErrors
from memos_vllm.api.auth import AuthMiddleware
from memos_vllm.api.identity import Authenticator
from memos_vllm.api.limits import LimitMiddleware
from memos_vllm.api.mcp import endpoint as mcp
from memos_vllm.errors import (
    BadRequest,
    MemosError,
    QuotaExceeded,
    envelope,
    envelope_on,
    headers_of,
)
from memos_vllm.governance.limits.fairness import FairQueue
from memos_vllm.governance.limits.limiter import Limiter
from memos_vllm.governance.limits.windows import Windows
from memos_vllm.system import MemorySystem


def attach(app: FastAPI, system: MemorySystem, authenticator: Authenticator) -> None:
    """Add authentication, the routes and the error envelope to an app. Idempotent."""
    if getattr(app.state, "memos_system", None) is not None:
        return
    app.state.memos_system, app.state.memos_authenticator = system, authenticator
    app.add_exception_handler(MemosError, _memos_error)
    app.include_router(cubes.router)
    app.include_router(documents.router)
    app.include_router(insight.router)
    app.include_router(use.router)
    app.include_router(profile.router)
    app.include_router(activation.router)
    app.include_router(transforms.router)
    app.include_router(claims.router)
    app.include_router(entities.router)
    app.include_router(reader.router)
    app.include_router(tokens.router)
    app.include_router(policies.router)
    app.include_router(restores.router)
    app.include_router(grants.router)
    app.include_router(store.router)
    app.include_router(migration.router)
    app.state.memos_ready = ready.Readiness()
    app.include_router(ready.router)
    app.include_router(erasures.router)  # behind the tokens: its path of a person takes the rest
    access_log.install()
    mcp.attach(app, system)
    governance = system.config.governance
    app.state.memos_queue = FairQueue(governance.fairness)
    limiter = Limiter(system.limits_of, Windows(governance.limits), system.pressure)
    app.add_middleware(  # behind authentication, which is added after it
        LimitMiddleware, config=system.config, limiter=limiter, queue=app.state.memos_queue
    )
    _include_first(app, responses.router)
    app.add_middleware(AnthropicErrors)
    app.add_middleware(
        AuthMiddleware,
        authenticator=authenticator,
        config=governance,
        epoch=lambda: system.erasures.serial,
        sessions=system.keys.sessions if system.config.console.enabled else None,
    )


def _include_first(app: FastAPI, router: APIRouter) -> None:
    """Add routes in front of those of vLLM, which has some of them over a store of its own."""
    known = len(app.router.routes)
    app.include_router(router)
    added = app.router.routes[known:]
    del app.router.routes[known:]
    app.router.routes[:0] = added


def create_app(system: MemorySystem) -> FastAPI:
    """The Memory API without an engine. Errors have the same envelope as behind vLLM."""
    app = FastAPI(title="memos_vllm Memory API")
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    attach(app, system, Authenticator(system.config.governance, system.keys))
    return app


async def _memos_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MemosError)
    if isinstance(error, QuotaExceeded):
        metrics.LIMITED.labels("quota").inc()
    return JSONResponse(
        envelope_on(request.url.path, error), status_code=error.status, headers=headers_of(error)
    )


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem: dict[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return JSONResponse(
        envelope(BadRequest(f"{where}: {problem['msg']}", param=where)), status_code=400
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    body = {
        "message": str(error.detail),
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)
