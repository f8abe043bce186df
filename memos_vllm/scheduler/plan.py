"""MemoryPlan: every candidate with the decision and its reason. Ids and numbers only, no text."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from memos_vllm.cube.model import Kind, Placement


class PlanModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlanEntry(PlanModel):
    cube: str
    version: str
    name: str | None = None
    kind: Kind = Kind.EXPLICIT
    form: Literal["text", "kv", "adapter"] = Field(
        "text",
        description="kv: the engine had its KV; text: its KV was computed for this request; adapter: it "
        "was attached to the model",
    )
    kv: Literal["exact", "near", "compact", "prefill"] | None = Field(
        None, description="origin of its KV; null: activation memory was not used"
    )
    places: int | None = Field(
        None, description="with `compact`: tokens of the prompt that stand for its text"
    )
    context: str | None = Field(
        None, description="with `near`: context in which its KV was computed"
    )
    expected_kl: float | None = Field(
        None,
        description="with `near`: measured KL divergence of KV from that context, nats; with `compact`: of "
        "held-out answers from those with the text; null: not measured yet",
    )
    placement: Placement
    item: str | None = Field(None, description="null: the whole cube")
    kept: bool = Field(
        False, description="it stays in front of an earlier message, for which it was retrieved"
    )
    score: float | None = None
    signals: dict[str, float] = Field(default_factory=dict)
    tokens: int = 0
    decision: Literal["used", "rejected"] = "used"
    reason: str


class Budget(PlanModel):
    limit: int = Field(description="tokens that memory may take in this prompt")
    context: int = Field(description="the model's context, tokens")
    reply: int = Field(description="tokens kept free for the reply")
    reason: str


class KVSegment(PlanModel):
    end: int = Field(description="position of its end, tokens from the start of the prompt")
    shared: bool | None = Field(
        description="its KV is shared by all people of the tenant; null: shown to admins only"
    )
    cubes: list[str] = Field(description="`id@sequence` of the cube versions in it and before it")


class KVPlan(PlanModel):
    """Segments of the prompt whose KV outlives the request."""

    segments: list[KVSegment] = Field(default_factory=list)
    conversation: int | None = Field(
        None, description="tokens of the prompt that LMCache may store; null: none"
    )
    problem: str | None = Field(None, description="why the prompt has no more segments")


class ForgottenPart(PlanModel):
    """What one item lost to an order to forget, without its text."""

    item: str
    cube: str
    what: str = Field(description="the item's type: `turn`, `reply`, `tool result`, or a claim's")
    said: str | None = Field(None, description="day of the item")
    part: Literal["whole", "sentences"]


class Forgot(PlanModel):
    """Orders to forget in this request, and what became of them."""

    count: int = Field(description="items that lost text; 0: nothing matched, or nothing was done")
    matched: int = Field(description="items that the orders match")
    all: bool = Field(False, description="the order was about all memory of the person")
    done: bool = Field(description="false: too many items match; look at them with `dry_run`")
    items: list[ForgottenPart] = Field(default_factory=list, description="50 at most")
    held: int = Field(0, description="matching items that a legal hold keeps")
    undo: str | None = Field(None, description="`POST /v1/memory/feedback` with it takes it back")
    undo_until: datetime | None = None


class CachedTokens(PlanModel):
    """Tokens of the prompt that were not computed, in the order of the prompt."""

    kind: Literal["exact", "near", "compact", "conversation"] = Field(
        description="the prompt's head with its cubes, approximate KV of it, places of compacts, or what "
        "comes behind"
    )
    source: Literal["engine", "memory", "disk", "lmcache"] = Field(
        description="the engine's own blocks, files in shared memory or on disk, LMCache; the last two may "
        "be of another server"
    )
    tokens: int


class MemoryPlan(PlanModel):
    """What `GET /v1/memory/explain/{request_id}` shows."""

    request_id: str = ""
    enabled: bool = True
    person: str | None = None
    as_of: datetime | None = Field(None, description="past moment of the memory; null: now")
    entries: list[PlanEntry] = Field(default_factory=list)
    budget: Budget | None = None
    kv: KVPlan | None = Field(None, description="null: activation memory was not used")
    injected_tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    cached: list[CachedTokens] = Field(
        default_factory=list, description="the cached tokens by kind and source; empty: none"
    )
    degraded: list[str] = Field(default_factory=list)
    steps_ms: dict[str, float] = Field(default_factory=dict)
    skipped: str | None = Field(None, description="why no memory was looked for")
    written: bool = Field(False, description="whether the turn becomes memory")
    not_written: str | None = Field(None, description="the reason why it does not")
    forgot: Forgot | None = Field(None, description="null: the request orders nothing of the kind")
    redacted: int = Field(0, description="secrets that were left out of the stored turn")

    @property
    def used(self) -> list[PlanEntry]:
        return [entry for entry in self.entries if entry.decision == "used"]

    @property
    def memory_tokens(self) -> int:
        """Tokens of all used entries."""
        return sum(entry.tokens for entry in self.used)

    @property
    def outcome(self) -> Literal["degraded", "injected", "nothing"]:
        """Label of the metric that counts chats."""
        if self.degraded:
            return "degraded"
        return "injected" if self.used else "nothing"

    def used_tokens(self) -> dict[str, int]:
        """Tokens of each cube in the prompt, by its id."""
        tokens = dict.fromkeys(self.used_cubes(), 0)
        for entry in self.used:
            tokens[entry.cube] += entry.tokens
        return tokens

    def used_cubes(self) -> list[str]:
        """Ids of the cubes in the prompt, each once, in prompt order."""
        return list(dict.fromkeys(entry.cube for entry in self.used))
