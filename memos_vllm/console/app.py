"""Attach the console's pages to an app that has the Memory API."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse

from memos_vllm.api.access import CONSOLE_PREFIX
from memos_vllm.api.identity import Authenticator
from memos_vllm.api.signed_in import SignedIn
from memos_vllm.console import (
    access,
    admin,
    cost,
    cubes,
    forget,
    items,
    overview,
    person,
    sharing,
    sign_in,
    store,
    try_it,
    why,
)
from memos_vllm.console.pages import environment, static_files, version_of
from memos_vllm.console.visit import Console, ConsoleRoute, address
from memos_vllm.errors import NotFound
from memos_vllm.system import MemorySystem

_rest = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
_PAGES = (
    *(sign_in, overview, person, cubes, items, sharing, forget),
    *(why, try_it, cost, access, admin, store),
)


def attach(app: FastAPI) -> None:
    """Add the console's routes, unless the configuration has it off. Idempotent.

    Args:
        app: to which `api.app.attach` has added the Memory API.
    """
    system: MemorySystem = app.state.memos_system
    if not system.config.console.enabled or getattr(app.state, "memos_console", None) is not None:
        return
    authenticator: Authenticator = app.state.memos_authenticator
    files = static_files()
    app.state.memos_console = Console(
        system,
        authenticator,
        SignedIn(authenticator, system.keys.sessions),
        environment(),
        files,
        version_of(files),
    )
    for module in _PAGES:
        app.include_router(module.router, prefix=CONSOLE_PREFIX)
    app.include_router(_rest)  # behind all others


@_rest.get(CONSOLE_PREFIX + "/")
def with_slash(request: Request) -> RedirectResponse:
    """The first page, by an address that ends with a slash."""
    return RedirectResponse(address(request, "", {}), status_code=303)


@_rest.api_route(CONSOLE_PREFIX + "/{rest:path}", methods=["GET", "POST"])
def no_page(request: Request, rest: str) -> None:
    """An address without a page. Raises NotFound."""
    raise NotFound("there is no such page")
