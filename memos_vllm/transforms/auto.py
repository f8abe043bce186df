"""Promotion of text to adapters: MemScheduler's rule for large, stable cubes that are often read.

Off by default (`training.promote`); `memos plan promote --dry-run` lists the cubes that it selects.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import MemosError
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.transforms.requests import Distill
from memos_vllm.transforms.submit import distill
from memos_vllm.vault.transform_records import Promotable, Transform

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_DAY_US = 86_400_000_000


def promotable(system: MemorySystem, tenant: str | None = None) -> list[Promotable]:
    """Cubes of text that the rule selects, most read first.

    A cube from which something was made, or that a job has read, is never selected again.
    """
    rule = system.config.training
    before = now_us() - round(rule.promote_after_days * _DAY_US)
    return system.transforms.promotable(
        before, rule.promote_reads, rule.promote_characters, tenant=tenant
    )


def promote(system: MemorySystem, tenant: str | None = None) -> list[Transform]:
    """Queue a distillation of each selected cube."""
    jobs = []
    for cube in promotable(system, tenant):
        principal = Principal(cube.tenant, Role.ADMIN, "scheduler", cube.person)
        try:
            jobs.append(distill(system, principal, cube.id, Distill()))
        except MemosError as error:
            log.warning("cube %s is not promoted: %s", cube.id, error)
    return jobs
