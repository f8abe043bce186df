"""Attach the Memory API to vLLM's app, or create an app without an engine for tests and tools."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from memos_vllm.api import (
    activation,
    claims,
    cubes,
    documents,
    entities,
    insight,
    reader,
    tokens,
    transforms,
)
from memos_vllm.api.auth import AuthMiddleware
from memos_vllm.api.identity import Authenticator
from memos_vllm.errors import BadRequest, MemosError, envelope
from memos_vllm.system import MemorySystem


def attach(app: FastAPI, system: MemorySystem, authenticator: Authenticator) -> None:
    """Add authentication, the routes and the error envelope to an app. Idempotent."""
    if getattr(app.state, "memos_system", None) is not None:
        return
    app.state.memos_system = system
    app.add_exception_handler(MemosError, _memos_error)
    app.include_router(cubes.router)
    app.include_router(documents.router)
    app.include_router(insight.router)
    app.include_router(activation.router)
    app.include_router(transforms.router)
    app.include_router(claims.router)
    app.include_router(entities.router)
    app.include_router(reader.router)
    app.include_router(tokens.router)
    app.add_middleware(AuthMiddleware, authenticator=authenticator, config=system.config.governance)


def create_app(system: MemorySystem) -> FastAPI:
    """The Memory API without an engine. Errors have the same envelope as behind vLLM."""
    app = FastAPI(title="memos_vllm Memory API")
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    attach(app, system, Authenticator(system.config.governance, system.keys))
    return app


async def _memos_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MemosError)
    return JSONResponse(envelope(error), status_code=error.status)


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
