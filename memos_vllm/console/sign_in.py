"""Sign-in, sign-out, links to a person's own view, and the console's script and style."""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from memos_vllm import metrics
from memos_vllm.api.signed_in import FORM_COOKIE, SESSION_COOKIE
from memos_vllm.console.visit import (
    At,
    ConsoleRoute,
    address,
    console_of,
    render,
)
from memos_vllm.errors import NotFound, Unauthorized
from memos_vllm.governance import tokens

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
_FORM_SECONDS = 3600
_NAME = re.compile(r"[0-9a-f]{32}")
_LONGEST_KEY = 4096
_UNCHANGED = "public, max-age=31536000, immutable"

Key = Annotated[str, Form(max_length=_LONGEST_KEY)]


@router.get("/sign-in")
def sign_in_page(request: Request) -> HTMLResponse:
    return _page(request, "sign_in.html")


@router.get("/view")
def view_page(
    request: Request, token: Annotated[str, Query(max_length=_LONGEST_KEY)] = ""
) -> HTMLResponse:
    """What a link to a person's view opens: a form, so that a program that previews the link is not signed in."""
    return _page(request, "view.html", key=token)


@router.post("/sign-in")
def sign_in(request: Request, key: Key = "") -> Response:
    console = console_of(request)
    credential = key.strip()
    try:
        principal = console.signed_in.principal_of(
            credential, request.client.host if request.client else None, request.headers
        )
    except Unauthorized as error:
        metrics.DENIED.labels(str(error.status)).inc()
        template = "view.html" if tokens.is_token(credential) else "sign_in.html"
        return _page(request, template, status=401, key="", failed=True)
    if not console.authenticator.keys_enabled():
        credential = ""
    config = console.system.config.console
    _, cookie = console.system.keys.sessions.begin(principal, credential, config.session_seconds)
    reply = RedirectResponse(address(request, "", {}), status_code=303)
    _set_cookie(request, reply, SESSION_COOKIE, cookie, config.session_seconds)
    _set_cookie(request, reply, FORM_COOKIE, "", 0)
    return reply


@router.post("/sign-out")
def sign_out(visit: At) -> RedirectResponse:
    """End the session, on every server of the database."""
    request = visit.request
    visit.system.keys.sessions.end(visit.caller, visit.session)
    reply = RedirectResponse(address(request, "sign-in", {}), status_code=303)
    _set_cookie(request, reply, SESSION_COOKIE, "", 0)
    return reply


@router.get("/static/{name}")
def static(request: Request, name: Annotated[str, Path(max_length=100)]) -> Response:
    found = console_of(request).files.get(name)
    if found is None:
        raise NotFound("there is no such file")
    body, kind = found
    return Response(body, media_type=kind, headers={"cache-control": _UNCHANGED})


def _page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A page with a form in front of the sign-in, whose token is bound to a cookie of its own.

    Raises:
        Forbidden: the server has no keys, and the browser is on another machine.
    """
    console = console_of(request)
    is_local = not console.authenticator.keys_enabled()
    if is_local:
        peer = request.client.host if request.client else None
        console.signed_in.principal_of("", peer, request.headers)
    name = request.cookies.get(FORM_COOKIE, "")
    if not _NAME.fullmatch(name):
        name = secrets.token_hex(16)
    token = console.system.keys.sessions.form_token(name)
    shared = {"key": "", "failed": False, "is_local": is_local, "token": token}
    page = render(request, template, status, **(shared | values))
    _set_cookie(request, page, FORM_COOKIE, name, _FORM_SECONDS)
    return page


def _set_cookie(request: Request, reply: Response, name: str, value: str, seconds: int) -> None:
    reply.set_cookie(
        name,
        value,
        max_age=seconds,
        path=address(request, "", {}),
        secure=console_of(request).system.config.console.secure_cookies,
        httponly=True,
        samesite="strict",
    )
