"""Access level of each route. Deny by default: a route that is not listed here needs the operator.

open        no key (configurable: `governance.open_routes`)
inference   any valid key
memory      any valid key; each handler asks for the role that it needs
operator    an admin key of `governance.operator_tenant`: routes that affect every tenant
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from memos_vllm.governance.principal import Scope


class Need(StrEnum):
    OPEN = "open"
    KEY = "key"
    OPERATOR = "operator"


MEMORY_PREFIX = "/v1/memory"

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
_INFERENCE_GET = frozenset({"/v1/models"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})


_READING_POST = frozenset({"/v1/memory/search"})
_OF_A_PERSON = re.compile(
    r"/v1/memory/(schema|search|claims|feedback|documents|explain/[^/]+|entities(/[^/]+)?"
    r"|cubes(/[^/]+(/(versions(/[^/]+)?|diff|rollback|merge|adapter))?)?)"
)
"""Routes for scopes; jobs, activation, audit, people and what is added later need a key without a list."""


def scopes_of(method: str, path: str) -> tuple[Scope, ...] | None:
    """Scopes that a request needs; None: no list of scopes suffices."""
    route = path.rstrip("/") or "/"
    if not (route == MEMORY_PREFIX or route.startswith(MEMORY_PREFIX + "/")):
        return (Scope.CHAT,)
    if not _OF_A_PERSON.fullmatch(route):
        return None
    if method in _SAFE_METHODS or route in _READING_POST:
        return (Scope.READ,)
    if method == "DELETE":
        return (Scope.DELETE,)
    if route == "/v1/memory/feedback":
        return (Scope.WRITE, Scope.DELETE)  # it forgets
    return (Scope.WRITE,)


def need_of(method: str, path: str, open_routes: Sequence[str]) -> Need:
    """The access level that a request needs.

    Args:
        method: upper case; "WEBSOCKET" for a websocket.
        path: without the server's root path; a trailing slash does not change the answer.
    """
    route = path.rstrip("/") or "/"
    if method in _SAFE_METHODS and route in open_routes:
        return Need.OPEN
    if route == MEMORY_PREFIX or route.startswith(MEMORY_PREFIX + "/"):
        return Need.KEY
    if method == "POST" and route in _INFERENCE_POST:
        return Need.KEY
    if method in _SAFE_METHODS and route in _INFERENCE_GET:
        return Need.KEY
    return Need.OPERATOR
