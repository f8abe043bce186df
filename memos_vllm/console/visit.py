"""One request of the console: its session, its principal, the person whose memory it shows, its replies.

`ConsoleRoute` stands around every page: it checks the form's token of each POST, turns errors into pages with
their status, and adds the headers of security.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment
from pydantic import BaseModel, ValidationError

from memos_vllm.api.access import CONSOLE_PREFIX
from memos_vllm.api.identity import LOCAL, Authenticator
from memos_vllm.api.signed_in import FORM_COOKIE, SECURITY_HEADERS, SignedIn
from memos_vllm.as_of import as_of_parameter
from memos_vllm.console.calls import Calls
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.errors import BadRequest, Forbidden, MemosError, headers_of
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Principal, Role, Scope
from memos_vllm.governance.sessions import Session
from memos_vllm.system import MemorySystem

TOKEN_FIELD = "form_token"
MESSAGES = {
    "state": "The state is changed.",
    "expiry": "The day of its expiry is set.",
    "merged": "The items are merged into this cube.",
    "rollback": "A new version has the older contents.",
    "deleted": "The cube is deleted.",
    "corrected": "The statement is corrected; the history has what it was.",
    "changed": "The item is changed, in a new version.",
    "removed": "The item is removed, in a new version.",
    "undone": "What was forgotten is back.",
    "noted": "It is noted.",
    "restoring": "The restore is ordered; it runs in the background.",
    "revoked": "The token is revoked.",
    "key-revoked": "The key is revoked; every server of the installation refuses it within its key cache's time.",
    "policy": "The policy is set, as a new version.",
    "shared": "The grant is set; the next request of its subject sees it.",
    "approved": "The bundle is approved: the next request may use it.",
    "updated": "The version is in place.",
    "rolled-back": "The version before is in place.",
    "followed": "It is set what a newer version does.",
    "current": "There is no newer version.",
    "unshared": "The grant is removed.",
}
"""Said after an action, by the name in the address that it leads to."""
_SAFE = {"GET", "HEAD"}
_FORM = "application/x-www-form-urlencoded"
_NO_NUL = r"^[^\x00]*$"
Model = TypeVar("Model", bound=BaseModel)


@dataclasses.dataclass(frozen=True)
class Console:
    """What all pages share."""

    system: MemorySystem
    authenticator: Authenticator
    signed_in: SignedIn
    templates: Environment
    files: Mapping[str, tuple[bytes, str]]
    version: str


class ConsoleRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                if request.method not in _SAFE:
                    await _check_form(request)
                response = await handle(request)
            except MemosError as error:
                response = error_page(request, error)
            except RequestValidationError as error:
                problem = error.errors()[0]
                where = ".".join(str(part) for part in problem["loc"])
                response = error_page(request, BadRequest(f"{where}: {problem['msg']}"))
            for name, value in SECURITY_HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return guarded


@dataclasses.dataclass(frozen=True)
class Visit:
    request: Request
    caller: Principal
    """Acts for `person`, where one is named."""
    day: str | None = None
    """Last moment of a past day, ISO 8601; None: now."""
    is_named: bool = False
    """Whether the address names the person."""

    @property
    def console(self) -> Console:
        return console_of(self.request)

    @property
    def system(self) -> MemorySystem:
        return self.console.system

    @property
    def calls(self) -> Calls:
        return Calls(self.system, self.caller)

    @property
    def whole_tenant(self) -> Calls:
        """Calls of the key itself, for no person."""
        key: Principal = self.request.state.memos_principal
        return Calls(self.system, key)

    @property
    def session(self) -> Session:
        found: Session = self.request.state.memos_console_session
        return found

    @property
    def is_admin(self) -> bool:
        return self.caller.can(Role.ADMIN) and self.caller.scopes is None

    @property
    def at(self) -> datetime:
        """The moment that the page shows."""
        return datetime.fromisoformat(self.day) if self.day else to_datetime(now_us())

    @property
    def has_tokens(self) -> bool:
        """Whether the key makes person tokens: it is one of a tenant, and no token itself."""
        return not self.caller.token_id and self.caller.key_id != LOCAL.key_id

    def may(self, scope: Scope) -> bool:
        """Whether to show an action; the call itself checks again."""
        return self.caller.can(Role.WRITER) and self.caller.has_scope(scope)

    @property
    def may_chat(self) -> bool:
        return self.caller.has_scope(Scope.CHAT)

    def url(self, path: str = "", **query: Any) -> str:
        """Address of a page, with the person and the day of this one unless they are given."""
        if self.is_named:
            query.setdefault("person", self.caller.person)
        if self.day is not None:
            query.setdefault("day", self.day[:10])
        return address(self.request, path, query)

    def is_at(self, path: str, which: str | None = None) -> bool:
        """Whether this is the page, with this choice on it."""
        chosen = self.request.query_params.get("which")
        return self.request.url.path == address(self.request, path, {}) and chosen == which

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return render(self.request, template, status, visit=self, **values)

    def go(self, path: str, **query: Any) -> RedirectResponse:
        """Redirect to a page, after an action."""
        return RedirectResponse(self.url(path, **query), status_code=303)


def console_of(request: Request) -> Console:
    found: Console = request.app.state.memos_console
    return found


def address(request: Request, path: str, query: Mapping[str, Any]) -> str:
    root = request.scope.get("root_path", "").rstrip("/")
    given = {name: value for name, value in query.items() if value not in (None, "")}
    place = f"{root}{CONSOLE_PREFIX}" + (f"/{path}" if path else "")
    return f"{place}?{urlencode(given)}" if given else place


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    console = console_of(request)
    session: Session | None = getattr(request.state, "memos_console_session", None)
    token = console.system.keys.sessions.form_token(session.id) if session else ""
    shared: dict[str, Any] = {
        "visit": None,
        "base": address(request, "", {}),
        "version": console.version,
        "token": token,
        "token_field": TOKEN_FIELD,
        "message": MESSAGES.get(request.query_params.get("done", "")),
    }
    text = console.templates.get_template(template).render(shared | values)
    return HTMLResponse(text.encode("utf-8", "replace"), status_code=status)


def error_page(request: Request, error: MemosError) -> HTMLResponse:
    principal: Principal | None = getattr(request.state, "memos_principal", None)
    visit = Visit(request, principal) if principal is not None else None
    page = render(request, "error.html", error.status, visit=visit, error=error)
    for name, value in headers_of(error).items():
        if name != "www-authenticate":  # a browser would ask for a password
            page.headers[name] = value
    return page


async def _check_form(request: Request) -> None:
    """Raise Forbidden: a POST without the token of its session's forms, or from another site's page."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("", _FORM):
        raise BadRequest(f"a form is sent as {_FORM}")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        raise Forbidden("the form was sent by another site's page")
    session: Session | None = getattr(request.state, "memos_console_session", None)
    name = session.id if session is not None else request.cookies.get(FORM_COOKIE, "")
    token = (await request.form()).get(TOKEN_FIELD, "")
    sessions = console_of(request).system.keys.sessions
    if not name or not isinstance(token, str) or not sessions.is_form_token(name, token):
        raise Forbidden(
            "the form has no valid token: load its page again. A browser that keeps no cookies of this "
            "server over plain http needs https, or `console.secure_cookies: false`"
        )


def _visit(
    request: Request,
    person: Annotated[str | None, Query(max_length=4 * MAX_NAME_LENGTH)] = None,
    day: Annotated[str | None, Query(max_length=10, pattern=r"^(\d{4}-\d\d-\d\d)?$")] = None,
) -> Visit:
    principal: Principal = request.state.memos_principal
    caller = principal.as_person(person or None)
    return Visit(request, caller, _end_of(day), is_named=bool(person))


def _end_of(day: str | None) -> str | None:
    """Last moment of a day, UTC; None: no day is given, or it is today. Raises BadRequest."""
    if not day or day == to_datetime(now_us()).date().isoformat():
        return None
    moment = f"{day}T23:59:59+00:00"
    as_of_parameter(moment, param="day")
    return moment


def asked(model: type[Model], **fields: Any) -> Model:
    """A request of the API from fields of a form. Raises BadRequest."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRequest(f"{where}: {problem['msg']}", param=where or None) from error


At = Annotated[Visit, Depends(_visit)]
Word = Annotated[str, Query(max_length=300, pattern=_NO_NUL)]
Cursor = Annotated[str | None, Query(max_length=600, pattern=_NO_NUL)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]
