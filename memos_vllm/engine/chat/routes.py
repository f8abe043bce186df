"""Person, session and adapter that a request's body names, on every route with a body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memos_vllm.engine.gateway import CALL, EngineCall
from memos_vllm.engine.lora.attached import EngineAdapters
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

    The person is `safety_identifier`, else `user`, else Anthropic's `metadata.user_id`, else the
    header `X-Memos-User`, which authentication has read. vLLM's request models keep fields that they
    do not declare as attributes.

    Raises:
        BadRequest: one of them is not a string.
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
    """Make every handler without memory describe its request as an `EngineCall`. Idempotent."""
    for attribute, method in HANDLERS:
        handler = getattr(state, attribute, None)
        if handler is not None and not is_named(handler):
            setattr(handler, method, _with_person(getattr(handler, method), adapters))
            name(handler)


def is_named(handler: Any) -> bool:
    """Whether the handler's requests name their person already."""
    return bool(getattr(handler, _MARK, False))


def name(handler: Any) -> None:
    setattr(handler, _MARK, True)


async def adapter_of(
    adapters: EngineAdapters | None, call: EngineCall, request: Any
) -> tuple[AdapterCube | None, Any]:
    """The adapter that a request names as its `model`, and the request with the base model's name.

    A name that does not exist, belongs to another person or has expired is left to vLLM, which
    answers 404 to each of them.

    Raises:
        NotFound: the same where vLLM would ask its own LoRA resolvers, which know no tenants.
    """
    model = getattr(request, "model", None)
    if adapters is None or not model or adapters.is_served(model):
        return None, request
    cube = await adapters.find(call.principal, model)
    if cube is None and not adapters.resolvers_are_on:
        return None, request
    if cube is None:
        raise NotFound(f"The model `{model}` does not exist.", param="model")
    call.model_name = model
    return cube, request.model_copy(update={"model": adapters.base_model})


async def attach(
    adapters: EngineAdapters | None, call: EngineCall, cube: AdapterCube | None
) -> None:
    """Load an adapter and attach it to the call.

    Raises:
        Unprocessable: it does not fit the served model.
        Unavailable, DamagedPayload: it cannot be loaded.
    """
    if adapters is not None and cube is not None:
        if (problem := adapters.problem(cube)) is not None:
            raise Unprocessable(problem, param="model")
        call.adapter = await adapters.prepare([cube])


def _with_person(serve: Callable[..., Any], adapters: EngineAdapters | None) -> Callable[..., Any]:
    async def served(request: Any, raw_request: Any = None) -> Any:
        principal = PRINCIPAL.get()
        if principal is not None:
            call = EngineCall(person_of(principal, request))
            CALL.set(call)  # this task's context ends with the request
            cube, request = await adapter_of(adapters, call, request)
            await attach(adapters, call, cube)
        return await serve(request, raw_request)

    return served


def _text(value: Any, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"`{field}` must be a string", param=field)
    return value
