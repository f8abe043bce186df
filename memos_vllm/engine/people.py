"""The person whom a request's body names, for every route that has a body to name one in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memos_vllm.api.context import PRINCIPAL
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Principal

# vLLM's other handlers on `app.state`, with the method that serves a request.
HANDLERS = (
    ("openai_serving_completion", "create_completion"),
    ("openai_serving_responses", "create_responses"),
    ("openai_serving_chat_batch", "create_batch_chat_completion"),
    ("anthropic_serving_messages", "create_messages"),
)
_MARK = "_memos_people"


def person_of(principal: Principal, request: Any) -> Principal:
    """The person and session that a body names inside the key's tenant.

    `safety_identifier`, else `user`, else Anthropic's `metadata.user_id`; the header `X-Memos-User`
    has been read at the door already and gives way to the body.  Fields that this vLLM does not know
    are attributes of the request all the same.
    """

    def field(name: str) -> str | None:
        return _text(getattr(request, name, None), name)

    metadata = getattr(request, "metadata", None)
    anthropic = metadata.get("user_id") if isinstance(metadata, dict) else None
    person = field("safety_identifier") or field("user") or _text(anthropic, "metadata.user_id")
    session = field("session_id")
    if session is None and principal.session is None:
        session = field("prompt_cache_key")
    return principal.as_person(person, session)


def install(state: Any) -> None:
    """Make every other handler set the person before it reaches the engine. Once per handler."""
    for attribute, method in HANDLERS:
        handler = getattr(state, attribute, None)
        if handler is not None and not getattr(handler, _MARK, False):
            setattr(handler, method, _with_person(getattr(handler, method)))
            setattr(handler, _MARK, True)


def _with_person(serve: Callable[..., Any]) -> Callable[..., Any]:
    async def served(request: Any, raw_request: Any = None) -> Any:
        principal = PRINCIPAL.get()
        if principal is not None:
            PRINCIPAL.set(person_of(principal, request))
        return await serve(request, raw_request)

    return served


def _text(value: Any, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"`{field}` must be a string", param=field)
    return value
