"""What a request's body names, for every route that has one: the person, and an adapter as `model`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memos_vllm.engine.gateway import ADAPTER
from memos_vllm.engine.lora.attached import NAMED_MODEL, EngineAdapters
from memos_vllm.errors import BadRequest, NotFound, Unprocessable
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.views import AdapterCube

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


def install(state: Any, adapters: EngineAdapters | None) -> None:
    """Make every other handler set the person before it reaches the engine. Once per handler."""
    for attribute, method in HANDLERS:
        handler = getattr(state, attribute, None)
        if handler is not None and not getattr(handler, _MARK, False):
            setattr(handler, method, _with_person(getattr(handler, method), adapters))
            setattr(handler, _MARK, True)


async def adapter_of(
    adapters: EngineAdapters | None, principal: Principal, request: Any
) -> tuple[AdapterCube | None, Any]:
    """The adapter that a request names as its `model`, and the request with the base model's name.

    A name that is nobody's, somebody else's or expired is left as it is: vLLM answers 404 to all.

    Raises:
        NotFound: instead of that, where vLLM would ask resolvers of its own: they know no tenants.
    """
    model = getattr(request, "model", None)
    if adapters is None or not model or adapters.is_served(model):
        return None, request
    cube = await adapters.find(principal, model)
    if cube is None and not adapters.resolvers_are_on:
        return None, request
    if cube is None:
        raise NotFound(f"The model `{model}` does not exist.", param="model")
    NAMED_MODEL.set(model)  # this task's context ends with the request
    return cube, request.model_copy(update={"model": adapters.base_model})


async def attach(adapters: EngineAdapters | None, cube: AdapterCube | None) -> None:
    """To whatever this request asks of the engine. Raises what is wrong with the adapter."""
    if adapters is not None and cube is not None:
        if (problem := adapters.problem(cube)) is not None:
            raise Unprocessable(problem, param="model")
        ADAPTER.set(await adapters.prepare([cube]))


def _with_person(serve: Callable[..., Any], adapters: EngineAdapters | None) -> Callable[..., Any]:
    async def served(request: Any, raw_request: Any = None) -> Any:
        principal = PRINCIPAL.get()
        if principal is not None:
            principal = person_of(principal, request)
            PRINCIPAL.set(principal)
            cube, request = await adapter_of(adapters, principal, request)
            await attach(adapters, cube)
        return await serve(request, raw_request)

    return served


def _text(value: Any, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"`{field}` must be a string", param=field)
    return value
