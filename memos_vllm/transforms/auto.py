"""Promotion of text to adapters and compacts: MemScheduler's rule for large, stable cubes that are often read.

Off by default (`training.promote`); `memos plan promote --dry-run` lists the cubes that it selects.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import MemosError
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.transforms.requests import Compact, Distill
from memos_vllm.transforms.submit import compact, distill
from memos_vllm.vault.transform_records import Promotable, Transform
from memos_vllm.vault.transform_rows import COMPACT, DISTILL

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_DAY_US = 86_400_000_000
_KINDS = {"adapter": DISTILL, "compact": COMPACT}


def promotable(
    system: MemorySystem, tenant: str | None = None, kind: str | None = None
) -> list[Promotable]:
    """Cubes of text that the rule selects, most read first.

    An adapter is made of a cube once, a compact once for each text of it.

    Args:
        kind: of the job; None: any of those that the rule names.
    """
    rule = system.config.training
    before = now_us() - round(rule.promote_after_days * _DAY_US)
    kinds = [_KINDS[each] for each in rule.promote_to] if kind is None else [kind]
    found = {
        cube.id: cube
        for each in kinds
        for cube in system.transforms.promotable(
            before, rule.promote_reads, rule.promote_characters, each, tenant=tenant
        )
    }
    return sorted(found.values(), key=lambda cube: (-cube.reads, cube.id))


def promote(system: MemorySystem, tenant: str | None = None) -> list[Transform]:
    """Queue the jobs of each selected cube."""
    jobs = []
    for kind in (_KINDS[each] for each in system.config.training.promote_to):
        for cube in promotable(system, tenant, kind):
            principal = Principal(cube.tenant, Role.ADMIN, "scheduler", cube.person)
            try:
                jobs.append(
                    distill(system, principal, cube.id, Distill())
                    if kind == DISTILL
                    else compact(system, principal, cube.id, Compact())
                )
            except MemosError as error:
                log.warning("cube %s is not promoted: %s", cube.id, error)
    return jobs
