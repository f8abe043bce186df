"""Authentication and access control: an ASGI middleware in front of every route, vLLM's included.

It resolves the principal before the body is read, rejects unauthorized requests, and adds the memory
headers to responses.  Plain ASGI, so streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memos_vllm import metrics, tracing
from memos_vllm.api.access import Need, check_scopes, is_console, need_of
from memos_vllm.api.identity import Authenticator, bearer, header_text, local_principal
from memos_vllm.api.signed_in import SignedIn, refusal
from memos_vllm.config.tree import GovernanceConfig
from memos_vllm.errors import Forbidden, MemosError, Unauthorized, envelope_on, headers_of
from memos_vllm.governance import affinity
from memos_vllm.governance.affinity import session_of
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.principal import Scope as KeyScope
from memos_vllm.vault.console_sessions import ConsoleSessions

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID_HEADER = "x-request-id"
_LONGEST_REQUEST_ID = 128
_CLOSED_POLICY_VIOLATION = 1008


class AuthMiddleware:
    def __init__(
        self,
        app: App,
        authenticator: Authenticator,
        config: GovernanceConfig,
        epoch: Callable[[], int | None] = lambda: None,
        sessions: ConsoleSessions | None = None,
    ) -> None:
        """
        Args:
            epoch: number of the last erasure.
            sessions: of the console; None: its pages refuse every request.
        """
        self._app = app
        self._authenticator = authenticator
        self._config, self._epoch = config, epoch
        self._signed_in = SignedIn(authenticator, sessions) if sessions is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._admit(scope)
        except MemosError as error:
            metrics.DENIED.labels(str(error.status)).inc()
            await _refuse(scope, send, error)
            return
        state = scope.setdefault("state", {})
        state["memos_principal"] = principal
        token = PRINCIPAL.set(principal)
        try:
            with tracing.under(_headers(scope)):
                await self._app(scope, receive, _with_memory_headers(state, send))
        finally:
            PRINCIPAL.reset(token)
            if (ended := state.get("memos_ended")) is not None:
                ended()

    async def _admit(self, scope: Scope) -> Principal | None:
        method = scope.get("method", "WEBSOCKET").upper()
        path = _path(scope)
        need = need_of(method, path, self._config.open_routes)
        headers = _headers(scope)
        if need is Need.OPEN:
            return None
        if need is Need.CONSOLE:
            return await self._of_session(scope, headers)
        principal = await self._identify(scope, headers)
        if need in (Need.OPERATOR, Need.METRICS) and principal.key_id != "local":
            if principal.tenant != self._config.operator_tenant:
                raise Forbidden(
                    f"{method} {path} affects every tenant: it needs an admin key of the tenant "
                    f"`{self._config.operator_tenant}`"
                )
            if need is Need.OPERATOR or principal.scopes is None:
                principal.require(Role.ADMIN)
        self._check_scopes(principal, method, path, need)
        principal = self._for_request(principal, headers)
        person = header_text(headers, self._config.person_headers)
        session = session_of(header_text(headers, self._config.session_headers))
        return principal.as_person(person, session)

    async def _of_session(self, scope: Scope, headers: dict[str, str]) -> Principal:
        """Principal of a browser's session; the request's headers name no key and no person."""
        if self._signed_in is None or scope["type"] != "http":
            raise Forbidden("this server has no console")
        session, principal = await self._signed_in.admit(scope, headers)
        scope.setdefault("state", {})["memos_console_session"] = session
        return self._for_request(principal, headers)

    def _for_request(self, principal: Principal, headers: dict[str, str]) -> Principal:
        request_id = headers.get(REQUEST_ID_HEADER, "")
        if not (0 < len(request_id) <= _LONGEST_REQUEST_ID and request_id.isprintable()):
            request_id = uuid.uuid4().hex
        return dataclasses.replace(principal, request_id=request_id, epoch=self._epoch())

    @staticmethod
    def _check_scopes(principal: Principal, method: str, path: str, need: Need) -> None:
        if principal.scopes is None:
            return
        if need is Need.METRICS:
            principal.require_scope(KeyScope.METRICS)
        elif need is Need.KEY:
            check_scopes(principal, method, path)
        else:
            raise Forbidden(
                f"{method} {path} needs a key without a list of scopes, and no person token"
            )

    async def _identify(self, scope: Scope, headers: dict[str, str]) -> Principal:
        enabled = self._authenticator.keys_enabled_cached()
        if enabled is None:
            enabled = await asyncio.to_thread(self._authenticator.keys_enabled)
        if not enabled:
            peer = scope.get("client")
            return local_principal(peer[0] if peer else None, headers)
        key = bearer(headers, self._config.key_headers)
        if key is None:
            raise Unauthorized("an API key is needed: send `Authorization: Bearer <key>`")
        principal = self._authenticator.cached(key)
        if principal is not None:
            return principal
        return await asyncio.to_thread(self._authenticator.authenticate, key)


def _headers(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}


def _path(scope: Scope) -> str:
    """The path below the server's root."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


def _with_memory_headers(state: MutableMapping[str, Any], send: Send) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        plan = state.get("memos_plan")
        if message["type"] == "http.response.start" and plan is not None:
            headers = list(message.get("headers", []))
            headers.append((b"x-memos-cubes", ",".join(plan.used_cubes()).encode()))
            if plan.degraded:
                headers.append((b"x-memos-degraded", ",".join(plan.degraded).encode()))
            if stays_by := state.get("memos_affinity"):
                headers.append((affinity.HEADER.encode(), stays_by.encode("latin-1")))
            message["headers"] = headers
        await send(message)

    return send_with_headers


async def _refuse(scope: Scope, send: Send, error: MemosError) -> None:
    if scope["type"] == "websocket":
        await send(
            {
                "type": "websocket.close",
                "code": _CLOSED_POLICY_VIOLATION,
                "reason": error.message[:120],
            }
        )
        return
    if is_console(_path(scope)):
        await _send_page(send, refusal(error, scope.get("root_path", ""), _headers(scope)))
        return
    body = json.dumps(envelope_on(_path(scope), error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    told = headers_of(error)
    if error.status == 401 and bearer(_headers(scope)) is not None:
        told["www-authenticate"] = 'Bearer error="invalid_token"'
    headers += [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_page(send: Send, page: tuple[int, dict[str, str], bytes]) -> None:
    status, told, body = page
    told |= {"content-length": str(len(body))}
    headers = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
