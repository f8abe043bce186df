"""`/v1/responses/{id}` and `/v1/conversations`: stored replies of a person, read and deleted.

`POST /v1/responses` is vLLM's, with memory in front of it (`engine.doors.responses`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import ConfigDict, Field

from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role
from memos_vllm.learning.forget import Forgetting
from memos_vllm.system import MemorySystem
from memos_vllm.vault.responses import Conversation, ResponseStore

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["responses"], responses=ERRORS)

Ident = Annotated[str, Path(max_length=64, pattern=r"^[^\x00/]+$")]
WithMemory = Annotated[bool, Query(description="also forget what the deleted turns left in memory")]


def _store(system: System) -> ResponseStore:
    return ResponseStore(system.database, system.config.responses.keep_days, system.redactors)


Store = Annotated[ResponseStore, Depends(_store)]


class NewConversation(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"metadata": {}}]})
    items: list[dict[str, Any]] = Field(
        default_factory=list, max_length=100, description="items that it begins with"
    )
    metadata: dict[str, str] | None = Field(None, max_length=16)


class ConversationView(Strict):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, Any]


class Forgotten(Strict):
    count: int = Field(description="items that left memory")
    undo: str | None = Field(description="`POST /v1/memory/feedback` with it takes it back")


class Deleted(Strict):
    id: str
    object: str
    deleted: Literal[True] = True
    memory: Forgotten | None = Field(description="null: memory was left as it is")


class ItemList(Strict):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None = None
    last_id: str | None = None
    has_more: Literal[False] = False


@router.get("/responses/{response_id}")
def get_response(store: Store, caller: Caller, response_id: Ident, stream: bool = False) -> Any:
    """Get a stored reply of the person."""
    if stream:
        raise BadRequest("a stored response is not streamed again: omit `stream`", param="stream")
    return store.get(caller, response_id).response


@router.get("/responses/{response_id}/input_items")
def input_items(store: Store, caller: Caller, response_id: Ident) -> ItemList:
    """List what a stored reply answers, without the conversation before it."""
    return _listed(store.get(caller, response_id).input)


@router.delete("/responses/{response_id}")
def delete_response(
    system: System, store: Store, caller: Caller, response_id: Ident, memory: WithMemory = False
) -> Deleted:
    """Delete a stored reply with what it answers; a conversation goes on without it."""
    caller.require(Role.WRITER)
    store.get(caller, response_id)
    # Memory first: where it fails, the id is still there to try again.
    forgot = _forget(system, caller, [response_id]) if memory else None
    store.delete(caller, response_id)
    return Deleted(id=response_id, object="response", memory=forgot)


@router.post("/conversations")
def create_conversation(store: Store, caller: Caller, request: NewConversation) -> ConversationView:
    """Make a conversation that `POST /v1/responses` continues."""
    caller.require(Role.WRITER)
    return _view(store.create(caller, dict(request.metadata or {}), request.items))


@router.get("/conversations/{conversation_id}")
def get_conversation(store: Store, caller: Caller, conversation_id: Ident) -> ConversationView:
    """Get a conversation of the person."""
    return _view(store.conversation(caller, conversation_id))


@router.get("/conversations/{conversation_id}/items")
def conversation_items(store: Store, caller: Caller, conversation_id: Ident) -> ItemList:
    """List what a conversation holds, oldest first."""
    return _listed(store.items(caller, conversation_id))


@router.delete("/conversations/{conversation_id}")
def delete_conversation(
    system: System,
    store: Store,
    caller: Caller,
    conversation_id: Ident,
    memory: WithMemory = False,
) -> Deleted:
    """Delete a conversation with its replies."""
    caller.require(Role.WRITER)
    # Memory first, as for a reply.
    replies = store.replies(caller, conversation_id)
    forgot = _forget(system, caller, replies) if memory else None
    store.delete_conversation(caller, conversation_id)
    return Deleted(id=conversation_id, object="conversation.deleted", memory=forgot)


def _forget(system: MemorySystem, caller: Caller, request_ids: list[str]) -> Forgotten:
    outcome = Forgetting(system).requests(caller, request_ids)
    return Forgotten(count=len(outcome.removals), undo=outcome.undo)


def _view(found: Conversation) -> ConversationView:
    return ConversationView(
        id=found.id, created_at=found.created_us // 1_000_000, metadata=found.metadata
    )


def _listed(items: list[dict[str, Any]]) -> ItemList:
    ids = [str(item["id"]) for item in items if item.get("id")]
    return ItemList(data=items, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)
