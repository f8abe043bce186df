"""Access level of each route. Deny by default: a route that is not listed here needs the operator.

open        no key (configurable: `governance.open_routes`)
console     a session of the console, whose key or token counts; its sign-in page is open
inference   any valid key
memory      any valid key; each handler asks for the role that it needs
metrics     a key of `governance.operator_tenant`, an admin's or one with the scope `metrics`
operator    an admin key of `governance.operator_tenant`: routes that affect every tenant
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from memos_vllm.errors import Forbidden
from memos_vllm.governance.principal import Principal, Scope


class Need(StrEnum):
    OPEN = "open"
    CONSOLE = "console"
    KEY = "key"
    METRICS = "metrics"
    OPERATOR = "operator"


MEMORY_PREFIX = "/v1/memory"
MCP_ROUTE = "/mcp"
CONSOLE_PREFIX = "/memory"
METRICS_ROUTE = "/metrics"

# Stateless inference on the caller's input; each route goes through the salted engine.
_INFERENCE_POST = frozenset(
    {
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/v1/completions",
        "/v1/completions/render",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v2/embed",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
        "/generative_scoring",
        "/v1/systemone",
        "/v1/messages/render",
        "/v1/responses/render",
        "/tokenize",
        "/detokenize",
        "/invocations",
    }
)
_STATE = re.compile(r"/v1/(responses/[^/]+(/input_items)?|conversations(/[^/]+(/items)?)?)")
"""Stored replies and conversations; each handler looks them up under the caller's person."""
_STATE_METHODS = {"GET", "HEAD", "DELETE"}
_INFERENCE_GET = frozenset({"/v1/models"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})


_OPEN_CONSOLE = re.compile(r"/memory/(sign-in|view|static/[\w-]+\.[\w.]+)")
"""Pages of the console in front of its sign-in."""
_READING_POST = frozenset({"/v1/memory/search"})
_OF_A_PERSON = re.compile(
    r"/v1/memory/(schema|search|use|claims|feedback|documents|explain/[^/]+|entities(/[^/]+)?"
    r"|cubes(/[^/]+(/(versions(/[^/]+)?|diff|rollback|merge|adapter|grants))?)?"
    r"|sessions/.+|people/(?!.*/tokens(/|$)).+/restore(s/[^/]+)?)"
)
"""Routes for scopes; jobs, activation, audit, people and what is added later need a key without a list."""
_RESTORES = re.compile(r"/v1/memory/people/.+/restore(s/[^/]+)?")
_ERASE = re.compile(r"/v1/memory/people/(?!.+/tokens(?:/|$)).+")
"""A person, whose own token erases it; not its tokens."""


def scopes_of(method: str, path: str) -> tuple[Scope, ...] | None:
    """Scopes that a request needs; None: no list of scopes suffices."""
    route = path.rstrip("/") or "/"
    if route == MCP_ROUTE or is_console(route):
        return ()  # each tool, and each page, asks for its own
    if _STATE.fullmatch(route) and method in _STATE_METHODS:
        return (Scope.DELETE,) if method == "DELETE" else (Scope.READ,)
    if route == "/v1/conversations":
        return (Scope.WRITE,)
    if not is_memory(route):
        return (Scope.CHAT,)
    if method == "DELETE" and _ERASE.fullmatch(route):
        return (Scope.DELETE,)
    if not _OF_A_PERSON.fullmatch(route):
        return None
    if _RESTORES.fullmatch(route):
        return (Scope.WRITE,)
    if method in _SAFE_METHODS or route in _READING_POST:
        return (Scope.READ,)
    if route.endswith("/grants"):
        return (Scope.SHARE,)
    if method == "DELETE":
        return (Scope.DELETE,)
    if route == "/v1/memory/feedback":
        return (Scope.WRITE, Scope.DELETE)  # it forgets
    return (Scope.WRITE,)


def is_memory(path: str) -> bool:
    """Whether a path is one of the Memory API."""
    route = path.rstrip("/") or "/"
    return route == MEMORY_PREFIX or route.startswith(MEMORY_PREFIX + "/")


def is_console(path: str) -> bool:
    """Whether a path is one of the console."""
    route = path.rstrip("/") or "/"
    return route == CONSOLE_PREFIX or route.startswith(CONSOLE_PREFIX + "/")


def check_scopes(principal: Principal, method: str, path: str) -> None:
    """Raise Forbidden where a key with a list of scopes, or a token, may not call a route."""
    if principal.scopes is None:
        return
    needed = scopes_of(method, path)
    if needed is None:
        raise Forbidden(
            f"{method} {path} needs a key without a list of scopes, and no person token"
        )
    for scope in needed:
        principal.require_scope(scope)


def is_inference(method: str, path: str) -> bool:
    """Whether a request may have the engine compute, for any key."""
    return method.upper() == "POST" and (path.rstrip("/") or "/") in _INFERENCE_POST


def need_of(method: str, path: str, open_routes: Sequence[str]) -> Need:
    """The access level that a request needs.

    Args:
        method: upper case; "WEBSOCKET" for a websocket.
        path: without the server's root path; a trailing slash does not change the answer.
    """
    route = path.rstrip("/") or "/"
    if is_console(route):  # in front of the open routes: no configuration opens its pages
        return Need.OPEN if _OPEN_CONSOLE.fullmatch(route) else Need.CONSOLE
    if method in _SAFE_METHODS and route in open_routes:
        return Need.OPEN
    if method in _SAFE_METHODS and route == METRICS_ROUTE:
        return Need.METRICS
    if route == MCP_ROUTE or is_memory(route) or is_inference(method, route):
        return Need.KEY
    if method in _SAFE_METHODS and route in _INFERENCE_GET:
        return Need.KEY
    if _STATE.fullmatch(route) and method in _STATE_METHODS:
        return Need.KEY
    if method == "POST" and route == "/v1/conversations":
        return Need.KEY
    return Need.OPERATOR
