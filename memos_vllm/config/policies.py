"""Policy of one tenant: which memory it may have, for how long, and who may share it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.config.section import Section

MemoryKind = Literal["plaintext", "activation", "parametric"]
Isolation = Literal["person", "tenant"]
_LONGEST_DAYS = 36_500.0


class RetentionRule(Section):
    """Memory that matches every condition of the rule ends after `max_days`."""

    max_days: float = Field(
        gt=0,
        le=_LONGEST_DAYS,
        description="age of an item, since it was said or stored; of an adapter, since its last version",
    )
    kind: Literal["plaintext", "parametric"] | None = Field(None, description="null: both")
    placement: Literal["stable", "retrieved"] | None = Field(None, description="null: both")
    tag: str | None = Field(
        None, min_length=1, max_length=100, description="tag of the cube; null: every cube"
    )
    action: Literal["delete", "archive"] = Field(
        "delete",
        description="delete: older items leave their cubes, with the older versions, and a cube without "
        "items is deleted; archive: a cube that is unchanged for so long is archived",
    )


class TenantPolicy(Section):
    kinds: tuple[MemoryKind, ...] = Field(
        ("plaintext", "activation", "parametric"),
        description="kinds of memory that are stored and used in prompts",
    )
    retention: tuple[RetentionRule, ...] = Field(
        (), max_length=100, description="rules that end old memory; frozen cubes are left alone"
    )
    expired_days: float | None = Field(
        None,
        ge=0,
        le=_LONGEST_DAYS,
        description="days until an expired cube is deleted; null: never",
    )
    archive_after_days: float = Field(
        0.0,
        ge=0,
        le=_LONGEST_DAYS,
        description="days without a use and a change until a person's cube is archived; 0: never",
    )
    default_ttl_seconds: int | None = Field(
        None,
        ge=1,
        le=10 * 365 * 86400,
        description="end of new cubes that name none; not of the profile and the facts of a person",
    )
    isolation: Isolation = Field(
        "person", description="prefix cache and KV shared per person, or by the whole tenant"
    )
    kv: Literal["exact", "near", "compact", "none"] = Field(
        "exact", description="`memory.kv` of requests that do not name it"
    )
    redaction: RedactionPolicy = Field(
        RedactionPolicy(), description="what is kept out of memory: `mode` and `kinds`"
    )
    share: tuple[Literal["writer", "admin"], ...] = Field(
        ("admin",),
        description="roles that may create shared cubes and change who reads them",
    )

    def allows(self, kind: MemoryKind) -> bool:
        return kind in self.kinds
