"""Ids as distinct types, and the digests that they are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from datetime import UTC, datetime
from typing import Any, NewType

from memos_vllm.clock import now_us as now_us

TenantId = NewType("TenantId", str)
PersonId = NewType("PersonId", str)
"""A person inside a tenant; the empty string is the tenant itself (shared memory)."""
CubeId = NewType("CubeId", str)
VersionId = NewType("VersionId", str)
ItemId = NewType("ItemId", str)
Sha256 = NewType("Sha256", str)

SHARED = PersonId("")


@dataclasses.dataclass(frozen=True, slots=True)
class CubeVersion:
    """A version of a cube as KV names it: `<cube id>@<sequence>`."""

    cube: str
    sequence: int

    @classmethod
    def parse(cls, text: str) -> CubeVersion:
        """Raises ValueError: the text has another form."""
        cube, at, sequence = text.rpartition("@")
        if not at:
            raise ValueError(f"{text!r} is not <cube id>@<sequence>")
        return cls(cube, int(sequence))

    def __str__(self) -> str:
        return f"{self.cube}@{self.sequence}"


def new_id(prefix: str) -> str:
    """`prefix_` + 48 bits of milliseconds + 80 random bits: sorts by time, cannot be guessed."""
    return f"{prefix}_{now_us() // 1000:012x}{secrets.token_hex(10)}"


def new_cube_id() -> CubeId:
    return CubeId(new_id("cube"))


def canonical_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def sha256(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def version_id(
    cube: CubeId, parent: VersionId | None, payload: Sha256, created_us: int
) -> VersionId:
    """Content address of a version, from its cube, parent, payload and time."""
    record = {"cube": cube, "parent": parent, "payload": payload, "created_us": created_us}
    return VersionId("v_" + sha256(canonical_json(record))[:40])


def to_datetime(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; a time without a zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000_000)
