"""MemoryPlan: every candidate, what was decided, and why. Holds ids and numbers, never text."""

from __future__ import annotations

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
        description="kv: the engine had its KV; text: it was computed for this request; adapter: it was "
        "attached to the model",
    )
    kv: Literal["exact", "near", "prefill"] | None = Field(
        None, description="how its KV was had; null: activation memory had no part"
    )
    context: str | None = Field(
        None, description="with `near`: where the KV was computed that was put here"
    )
    expected_kl: float | None = Field(
        None,
        description="with `near`: what KV from there cost when it was measured, nats; null: it was "
        "not measured yet",
    )
    placement: Placement
    item: str | None = Field(None, description="null: the whole cube")
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
    end: int = Field(description="tokens of the prompt up to its end")
    shared: bool = Field(description="its KV serves the tenant's other people too")
    cubes: list[str] = Field(
        description="`id@sequence` of the cubes, by their versions, in it and before it"
    )


class KVPlan(PlanModel):
    """How the prompt is cut for KV that outlives the request."""

    segments: list[KVSegment] = Field(default_factory=list)
    conversation: int | None = Field(
        None, description="tokens of the prompt that LMCache may keep; null: none"
    )
    problem: str | None = Field(None, description="why no more of it could be cut")


class MemoryPlan(PlanModel):
    """What `GET /v1/memory/explain/{request_id}` shows."""

    request_id: str = ""
    enabled: bool = True
    person: str | None = None
    entries: list[PlanEntry] = Field(default_factory=list)
    budget: Budget | None = None
    kv: KVPlan | None = Field(None, description="null: activation memory had no part")
    injected_tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    degraded: list[str] = Field(default_factory=list)
    steps_ms: dict[str, float] = Field(default_factory=dict)
    written: bool = Field(False, description="whether this turn becomes memory")

    @property
    def used(self) -> list[PlanEntry]:
        return [entry for entry in self.entries if entry.decision == "used"]

    def used_cubes(self) -> list[str]:
        """Ids of the cubes in the prompt, each once, in prompt order."""
        return list(dict.fromkeys(entry.cube for entry in self.used))
