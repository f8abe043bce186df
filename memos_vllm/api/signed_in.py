"""Authentication of the console: the principal of a browser's session, and refusals that a browser shows.

A session's cookie holds an encrypted key or token (`governance.sessions`), which is authenticated again for each
request, like the key of a call of the API.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping
from typing import Any

from starlette.requests import cookie_parser

from memos_vllm.api.access import CONSOLE_PREFIX
from memos_vllm.api.identity import Authenticator, local_principal
from memos_vllm.errors import Forbidden, MemosError, Unauthorized, headers_of
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.sessions import Session
from memos_vllm.vault.console_sessions import ConsoleSessions

SESSION_COOKIE = "memos_console"
FORM_COOKIE = "memos_console_form"
_OTHERS = ("cross-site", "same-site")
SIGN_IN = f"{CONSOLE_PREFIX}/sign-in"
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class SignedIn:
    def __init__(self, authenticator: Authenticator, sessions: ConsoleSessions) -> None:
        self._authenticator, self._sessions = authenticator, sessions

    async def admit(
        self, scope: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[Session, Principal]:
        """The session of a request, and its principal.

        Raises:
            Unauthorized: no session, one that has ended, or its key does not count any more.
            Forbidden: the server has no keys, and the browser is on another machine; or a page of another
                origin reads, where the operator lets it send cookies.
        """
        if headers.get("sec-fetch-site") in _OTHERS and headers.get("sec-fetch-mode") != "navigate":
            raise Forbidden("pages of other origins do not read the console")
        cookie = cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)
        if not cookie:
            raise Unauthorized("sign in first")
        session = await asyncio.to_thread(self._sessions.read, cookie)
        peer = scope.get("client")
        principal = await asyncio.to_thread(
            self.principal_of, session.credential, peer[0] if peer else None, headers
        )
        return session, principal

    def principal_of(
        self, credential: str, peer: str | None, headers: Mapping[str, str]
    ) -> Principal:
        """The principal of a key or token, or of this machine while no key exists; blocks.

        Raises:
            Unauthorized, Forbidden: as `admit`.
        """
        if not self._authenticator.keys_enabled():
            return local_principal(peer, headers)
        if not credential:
            raise Unauthorized("an API key is needed")
        return self._authenticator.cached(credential) or self._authenticator.authenticate(
            credential
        )


def refusal(
    error: MemosError, root_path: str, headers: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refused request: a redirect to the sign-in page, or a short page."""
    told = dict(SECURITY_HEADERS)
    sign_in = root_path.rstrip("/") + SIGN_IN
    if error.status == 401 and headers.get("hx-request") == "true":
        return 401, told | {"hx-redirect": sign_in}, b""
    if error.status == 401:
        return 303, told | {"location": sign_in}, b""
    told |= headers_of(error) | {"content-type": "text/html; charset=utf-8"}
    text = html.escape(error.message)
    body = f'<!doctype html><html lang="en"><title>Memory</title><main><p>{text}</p></main></html>'
    return error.status, told, body.encode("utf-8", "replace")
