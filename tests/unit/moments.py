"""Memory that changes over time, for tests of past moments."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, MemCube, NewCube, NewMeta
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.system import MemorySystem
from tests.conftest import principal
from tests.unit.conftest import ALICE

ADMIN = principal("", role=Role.ADMIN)
BOB = principal("bob")


def now() -> datetime:
    """A moment after all that was done, and before all that will be."""
    time.sleep(0.002)
    moment = to_datetime(now_us())
    time.sleep(0.002)
    return moment


def keep(system: MemorySystem, *texts: str, who: Principal = ALICE, **meta: Any) -> str:
    """A new cube of these items; returns its id."""
    content = [Item(text=text) for text in texts]
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))
    return system.create(who, [new])[0].meta.id


def change(
    system: MemorySystem, cube: str, *texts: str, who: Principal = ALICE, **fields: Any
) -> MemCube:
    """A new version, with these items if any are given."""
    payload = ExplicitPayload(content=[Item(text=text) for text in texts]) if texts else None
    return system.update(who, cube, CubePatch(payload=payload, **fields))
