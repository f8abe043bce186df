"""MemScheduler's rule for text → adapter: what is read often, has not changed for long and is large.

Off unless the configuration says so (`training.promote`); `memos plan promote --dry-run` shows what it
would do.
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
    """Cubes of text that the rule would make adapters of, the most read first.

    One that was made an adapter of, or that a job has read, is left alone, whatever came of it.
    """
    rule = system.config.training
    before = now_us() - round(rule.promote_after_days * _DAY_US)
    return system.transforms.promotable(
        before, rule.promote_reads, rule.promote_characters, tenant=tenant
    )


def promote(system: MemorySystem, tenant: str | None = None) -> list[Transform]:
    """Queue a job for each of them."""
    jobs = []
    for cube in promotable(system, tenant):
        principal = Principal(cube.tenant, Role.ADMIN, "scheduler", cube.person)
        try:
            jobs.append(distill(system, principal, cube.id, Distill()))
        except MemosError as error:
            log.warning("%s is not made an adapter of: %s", cube.id, error)
    return jobs
