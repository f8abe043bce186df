"""MemCube as pydantic models, in the wire form of the paper's Figure 6.

`{"meta": {header}, "payload": {"type": …, "format": …, "content": …}}`.  The three kinds share the
header; only the payload differs:

    explicit    text   items (turns, facts, passages), each with its source and time
    activation  kv     KV cache of a cube's tokens                 (not accepted: 501)
    parametric  lora   a LoRA adapter of the served model

Source: MemOS (arXiv 2507.03724), sections 4.2 and 5.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

from memos_vllm.cube.moments import Moment

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f/]+$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]
# Databases refuse NUL in text; so does this model, with a field name in the error.
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]+$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]


class Kind(StrEnum):
    EXPLICIT = "explicit"
    ACTIVATION = "activation"
    PARAMETRIC = "parametric"


class State(StrEnum):
    """Life of a cube; legal transitions are in `memos_vllm.cube.lifecycle`."""

    GENERATED = "generated"
    ACTIVATED = "activated"
    MERGED = "merged"
    ARCHIVED = "archived"
    FROZEN = "frozen"
    EXPIRED = "expired"


class Placement(StrEnum):
    STABLE = "stable"
    """Whole, at the head of every prompt whose request may read it."""
    RETRIEVED = "retrieved"
    """Item by item, in front of the last user message, when search finds it."""


class ItemType(StrEnum):
    EPISODE = "episode"
    """A turn of a conversation, verbatim."""
    FACT = "fact"
    PREFERENCE = "preference"
    """A liking of a person, or how they want replies."""
    EVENT = "event"
    """Something that happened or will happen at a time."""
    PROCEDURE = "procedure"
    """How something is done."""
    TOOL_TRACE = "tool_trace"
    """Arguments and result of a tool call."""
    PASSAGE = "passage"
    """A piece of a document."""

    @classmethod
    def _missing_(cls, value: object) -> ItemType | None:
        return cls.EPISODE if value == "turn" else None  # its name before schema revision 0003


ASSISTANT, TOOL = "assistant", "tool"
"""Speakers of replies and of tool traces in chats."""


class Mark(StrEnum):
    """Reason why a reply is no evidence: it is stored and listed, and no search finds it."""

    CUT = "cut"
    """It ended at `max_tokens`."""
    ABORTED = "aborted"
    """The client went away, or the engine failed, before its end."""
    FILTERED = "filtered"
    """A content filter ended it."""
    DEGRADED = "degraded"
    """A part of memory did not answer."""
    WITHOUT_MEMORY = "without_memory"
    """The request asked for no memory, or none fitted."""


class Standing(StrEnum):
    """What a lasting statement of a person is, most binding first."""

    CONSTRAINT = "constraint"
    """What must not be overlooked: health, diet, ability, belief, means."""
    INSTRUCTION = "instruction"
    """How replies should be, from then on."""
    FACT = "fact"
    PREFERENCE = "preference"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def plain(text: str | None) -> str:
    """Casefold, collapse white space, strip spaces and marks from both ends."""
    return " ".join((text or "").split()).casefold().strip(" .!")


class Claim(Strict):
    """Structured statement of an item: subject, attribute, value, validity and confidence.

    Two times: `begins` to `ends` is its validity in the world; `Item.time` is the time of the
    message, and the versions of the cube have the time of recording.
    """

    subject: Label = Field(description="the person or thing that it is about")
    attribute: Label | None = Field(
        None,
        description="property of the subject; a newer claim about the same property supersedes",
    )
    value: Label | None = Field(None, description="value of that property")
    begins: Moment | None = None
    ends: Moment | None = Field(None, description="null: still valid")
    confidence: float = Field(1.0, ge=0, le=1)
    sources: list[Label] = Field(
        default_factory=list, description="messages that say it, the oldest first"
    )
    seen: int = Field(1, ge=1, description="number of messages that said it")
    last_seen: Moment | None = None
    entities: list[Label] = Field(
        default_factory=list, description="names of people, places and things in it"
    )
    standing: Standing | None = Field(
        None, description="kind of a statement that is kept verbatim; null: it has an attribute"
    )
    superseded_by: Label | None = Field(
        None, description="message with the newer statement that ended it"
    )
    followed_by: Label | None = Field(
        None,
        description="message with a later statement on the same thing, which may have replaced it",
    )
    followed_at: Moment | None = Field(None, description="time of that message")


class Item(Strict):
    """One unit of memory: text with its speaker, time, session and source."""

    id: str | None = Field(
        None, description="given by the vault; stable while the item is unchanged"
    )
    type: ItemType = ItemType.PASSAGE
    text: Text
    speaker: Label | None = None
    time: Moment | None = Field(
        None, description="time of the message or document; no zone means UTC"
    )
    session: Label | None = None
    source: Label | None = Field(
        None, description="message id, document name, turn id of a data set"
    )
    claim: Claim | None = Field(None, description="the extracted claim; null: the text is verbatim")
    mark: Mark | None = Field(
        None, description="why a reply is no evidence and not searched; null: it is"
    )


class Access(Strict):
    """Readers and writers of a shared cube inside the tenant; a person's own cube ignores it."""

    readers: list[Label] | None = Field(
        None, description="persons; null means everyone in the tenant"
    )
    writers: Literal["admin", "tenant"] = "admin"


class Provenance(Strict):
    origin: Label = Field("api", description="api, chat, import:<format>, rollback, …")
    session: Label | None = None
    message_ids: list[Label] = Field(default_factory=list)
    model: Label | None = None
    prompt_sha256: str | None = None
    parents: list[Label] = Field(
        default_factory=list, description="cubes that this one was derived from"
    )
    parent_versions: list[Label] = Field(
        default_factory=list, description="their versions, in the same order"
    )
    note: str | None = Field(None, max_length=2000, pattern=r"^[^\x00]*$")


class KVUsage(Strict):
    chains: int = Field(description="segments that hold the cube, in all contexts")
    bytes: int
    pinned: bool
    near_kl: float | None = Field(
        None,
        description="KL of its best context, reused in other contexts, nats; null: not measured yet",
    )
    near_refused: int = Field(0, description="contexts whose KL is above `kv.near_max_kl`")


class Usage(Strict):
    reads: int = 0
    last_read: Moment | None = None
    kv: KVUsage | None = Field(None, description="set only in an answer about a single cube")


class Header(Strict):
    """Header of a cube, the same for every kind."""

    id: str
    tenant: str
    person: str | None = Field(None, description="null: the tenant's shared memory")
    name: str | None = None
    kind: Kind = Kind.EXPLICIT
    state: State = State.ACTIVATED
    placement: Placement = Placement.RETRIEVED
    priority: int = 0
    tags: list[str] = Field(default_factory=list)
    access: Access = Access()
    version: str
    sequence: int = Field(description="1 for the first version, then counted up")
    parent: str | None = None
    author: str
    provenance: Provenance = Provenance()
    model_fingerprint: str | None = None
    stale: list[str] = Field(
        default_factory=list,
        description="source cubes that have changed since, or are deleted",
    )
    created: datetime
    updated: datetime
    expires: Moment | None = None
    usage: Usage = Usage()


class ExplicitPayload(Strict):
    type: Literal["explicit"] = "explicit"
    format: Literal["text"] = "text"
    content: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")] | list[Item] = Field(
        description="text is cut into passages; a list is stored unchanged"
    )


class ActivationPayload(Strict):
    type: Literal["activation"]
    format: Literal["kv"] = "kv"
    content: dict[str, Any] = Field(default_factory=dict)


class ParametricPayload(Strict):
    """A LoRA adapter; responses leave its weights out (`GET …/adapter` has the file)."""

    type: Literal["parametric"] = "parametric"
    format: Literal["lora"] = "lora"
    content: dict[str, Any] = Field(
        default_factory=dict,
        description="to store: `adapter_config` (the object in PEFT's adapter_config.json) and "
        "`adapter_model` (PEFT's adapter_model.safetensors, base64); shown: properties of the adapter",
    )
    _file: bytes | None = PrivateAttr(None)
    """The checked adapter, packed; set by the check."""
    _model: str | None = PrivateAttr(None)
    """Fingerprint of the model that it fits."""


Payload = Annotated[
    ExplicitPayload | ActivationPayload | ParametricPayload, Field(discriminator="type")
]


class MemCube(Strict):
    meta: Header
    payload: Payload

    @property
    def items(self) -> list[Item]:
        """Items of a cube of text; none of the other kinds, nor of text that is not yet cut."""
        return _items(self.payload)


class NewMeta(Strict):
    """Header fields that a creator may set."""

    name: Name | None = None
    person: Label | None = Field(None, description="owner; default: the person of the request")
    shared: bool = Field(False, description="owned by the tenant instead of a person")
    placement: Placement = Placement.RETRIEVED
    state: Literal[State.GENERATED, State.ACTIVATED] = State.ACTIVATED
    priority: int = Field(0, ge=-1000, le=1000)
    tags: list[Tag] = Field(default_factory=list, max_length=64)
    access: Access = Access()
    expires: Moment | None = None
    ttl_seconds: int | None = Field(None, ge=1, le=10 * 365 * 86400)
    provenance: Provenance = Provenance()


class NewCube(Strict):
    meta: NewMeta = NewMeta()
    payload: Payload

    @property
    def items(self) -> list[Item]:
        """As `MemCube.items`."""
        return _items(self.payload)


class CubePatch(Strict):
    """Change of a cube: an absent field is unchanged; `payload` replaces, `append` adds items."""

    name: Name | None = None
    placement: Placement | None = None
    state: State | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)
    tags: list[Tag] | None = Field(None, max_length=64)
    access: Access | None = None
    expires: Moment | None = None
    payload: Payload | None = None
    append: list[Item] | None = Field(None, min_length=1)
    provenance: Provenance | None = None
    reason: Label | None = Field(
        None, description="why a legal hold is set or lifted; it stands in the audit log"
    )


class Version(Strict):
    """One immutable version of a cube."""

    id: str
    cube: str
    sequence: int
    parent: str | None
    author: str
    action: Literal["create", "update", "append", "rollback"]
    created: datetime
    provenance: Provenance
    payload_sha256: str
    payload_bytes: int


def _items(payload: Payload) -> list[Item]:
    content = payload.content
    return content if isinstance(content, list) else []


class VersionDiff(Strict):
    """Items, compared by content, that only the newer or only the older version has."""

    cube: str
    older: str
    newer: str
    added: list[Item]
    removed: list[Item]
