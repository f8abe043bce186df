"""MemCube as pydantic models, in the wire form of the paper's Figure 6.

`{"meta": {header}, "payload": {"type": …, "format": …, "content": …}}`.  The three kinds share the
header; only the payload differs:

    explicit    text   items (turns, facts, passages), each with its source and time
    activation  kv     KV cache of a cube's tokens                 (answered with 501 so far)
    parametric  lora   a LoRA adapter of the served model

Source: MemOS (arXiv 2507.03724), sections 4.2 and 5.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

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
    """Whole, in the system message of every request that may read it."""
    RETRIEVED = "retrieved"
    """Item by item, in front of the last user message, when a question calls for it."""


class ItemType(StrEnum):
    EPISODE = "episode"
    """A turn of a conversation, word by word."""
    FACT = "fact"
    PREFERENCE = "preference"
    """How somebody wants things, or wants to be treated."""
    EVENT = "event"
    """Something that happened or will happen at a time."""
    PROCEDURE = "procedure"
    """How something is done."""
    TOOL_TRACE = "tool_trace"
    """What a tool was called with and what it returned."""
    PASSAGE = "passage"
    """A piece of a document."""

    @classmethod
    def _missing_(cls, value: object) -> ItemType | None:
        return cls.EPISODE if value == "turn" else None  # its name before schema revision 0003


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def plain(text: str | None) -> str:
    """Words alone: what is the same but for case, space and a full stop is the same."""
    return " ".join((text or "").split()).casefold().strip(" .!")


class Claim(Strict):
    """What was read out of something that was said: about whom, since when, and how surely.

    Two times: `begins` to `ends` is when it holds in the world; `Item.time` is when it was said, and
    the versions of the cube are when it was recorded.
    """

    subject: Label = Field(description="who or what it is about")
    attribute: Label | None = Field(
        None,
        description="which of the subject's properties: a newer claim about the same supersedes",
    )
    value: Label | None = Field(None, description="what that property is")
    begins: datetime | None = None
    ends: datetime | None = Field(None, description="null: it still holds")
    confidence: float = Field(1.0, ge=0, le=1)
    sources: list[Label] = Field(
        default_factory=list, description="messages that say it, the first one first"
    )
    seen: int = Field(1, ge=1, description="times that it was said")
    last_seen: datetime | None = None
    entities: list[Label] = Field(
        default_factory=list, description="people, places and things that it names"
    )


class Item(Strict):
    """One thing remembered, with where and when it comes from."""

    id: str | None = Field(
        None, description="given by the vault; stable while the item is unchanged"
    )
    type: ItemType = ItemType.PASSAGE
    text: Text
    speaker: Label | None = None
    time: datetime | None = Field(
        None, description="when it was said or written; no zone means UTC"
    )
    session: Label | None = None
    source: Label | None = Field(
        None, description="message id, document name, turn id of a data set"
    )
    claim: Claim | None = Field(
        None, description="of what was extracted; null: it stands as it was said or written"
    )


class Access(Strict):
    """Who inside the tenant reads a shared cube. A person's own cube ignores it."""

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
    parents: list[Label] = Field(default_factory=list, description="cubes this one was made from")
    parent_versions: list[Label] = Field(
        default_factory=list, description="which versions of them, in the same order"
    )
    note: str | None = Field(None, max_length=2000, pattern=r"^[^\x00]*$")


class KVUsage(Strict):
    chains: int = Field(description="segments that hold the cube, in whichever context")
    bytes: int
    pinned: bool
    near_kl: float | None = Field(
        None, description="of its best context, put into other places; null: not measured yet"
    )
    near_refused: int = Field(0, description="contexts that cost more than `kv.near_max_kl`")


class Usage(Strict):
    reads: int = 0
    last_read: datetime | None = None
    kv: KVUsage | None = Field(None, description="filled where one cube is asked for")


class Header(Strict):
    """What every cube has, whatever its kind."""

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
        description="cubes that it was made from and that hold something else now, or are gone",
    )
    created: datetime
    updated: datetime
    expires: datetime | None = None
    usage: Usage = Usage()


class ExplicitPayload(Strict):
    type: Literal["explicit"] = "explicit"
    format: Literal["text"] = "text"
    content: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")] | list[Item] = Field(
        description="text is cut into passages; a list is kept as it is"
    )


class ActivationPayload(Strict):
    type: Literal["activation"]
    format: Literal["kv"] = "kv"
    content: dict[str, Any] = Field(default_factory=dict)


class ParametricPayload(Strict):
    """A LoRA adapter. Sent with its weights, shown without them (`GET …/adapter` has the file)."""

    type: Literal["parametric"] = "parametric"
    format: Literal["lora"] = "lora"
    content: dict[str, Any] = Field(
        default_factory=dict,
        description="to store: `adapter_config` (the object in PEFT's adapter_config.json) and "
        "`adapter_model` (PEFT's adapter_model.safetensors, base64); shown: what the adapter is",
    )
    _file: bytes | None = PrivateAttr(None)
    """The checked adapter, packed; set by whoever checked it."""
    _model: str | None = PrivateAttr(None)
    """Fingerprint of the model that it was found to fit."""


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
    """The part of a header that a creator may set."""

    name: Name | None = None
    person: Label | None = Field(None, description="whose; default: the person of the request")
    shared: bool = Field(False, description="the tenant's own instead of a person's")
    placement: Placement = Placement.RETRIEVED
    state: Literal[State.GENERATED, State.ACTIVATED] = State.ACTIVATED
    priority: int = Field(0, ge=-1000, le=1000)
    tags: list[Tag] = Field(default_factory=list, max_length=64)
    access: Access = Access()
    expires: datetime | None = None
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
    """Every field left out stays as it is. `payload` replaces, `append` adds to the items."""

    name: Name | None = None
    placement: Placement | None = None
    state: State | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)
    tags: list[Tag] | None = Field(None, max_length=64)
    access: Access | None = None
    expires: datetime | None = None
    payload: Payload | None = None
    append: list[Item] | None = Field(None, min_length=1)
    provenance: Provenance | None = None


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
    """Items by content: what the newer version has that the older has not, and the reverse."""

    cube: str
    older: str
    newer: str
    added: list[Item]
    removed: list[Item]
