"""MemLifecycle's sweep: expiry, decay and retention of every tenant, by its policy.

    expire     a cube past its end gets the state `expired`
    delete     an expired cube, `expired_days` later
    archive    a person's cube that was idle for `archive_after_days`; a rule's, unchanged for so long
    retain     items older than a rule's `max_days` leave their cubes, with all versions that hold them;
               a cube that has nothing else is deleted

Each change is a transaction of its own that matches the version which the sweep saw, so that a sweep that is
killed, repeated, or run by two processes changes nothing twice.  One job (`sweep`) in the durable queue leases
it to one process at a time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator

from memos_vllm import metrics
from memos_vllm.config.policies import RetentionRule, TenantPolicy
from memos_vllm.cube.ids import new_id, now_us, to_us
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, Kind, Provenance, State
from memos_vllm.errors import (
    Conflict,
    DamagedPayload,
    Forbidden,
    NotFound,
    Unavailable,
    Unprocessable,
    VaultUnavailable,
)
from memos_vllm.system import MemorySystem
from memos_vllm.vault.ageing import PAGE, Aged, Query
from memos_vllm.vault.forgotten import Forgotten
from memos_vllm.vault.jobs import Job, Lane, new_holder

log = logging.getLogger(__name__)
DAY_US = 86_400_000_000
SUBJECT = "all"
ORIGIN = "retention"


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One thing that a sweep does, or would do."""

    what: str
    """expired, archived, deleted, items, versions."""
    tenant: str
    cube: str
    count: int = 1


class Sweep:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def job(self, subject: str) -> None:
        """Handler of the job `sweep`. Raises VaultUnavailable."""
        with metrics.SWEEP_SECONDS.time():
            for _ in self.run():
                pass
        metrics.SWEEP_TENANTS_LEFT.set(0)
        metrics.SWEEP_ENDED.set_to_current_time()

    def alone(self, holder: str | None = None) -> Job | None:
        """Lease the sweep to this process; None: another process sweeps. For the command line."""
        store = self._system.jobs
        store.renew("sweep", SUBJECT)
        with self._system.database.write() as session:
            return store.claim_in(session, Lane.UPKEEP, holder or new_holder(), SUBJECT)

    def run(
        self, tenant: str | None = None, *, dry_run: bool = False, at_us: int | None = None
    ) -> Iterator[Step]:
        """Sweep all tenants, or one, and yield each step when it is done.

        Args:
            at_us: moment by which ages are counted; None: now.
        """
        moment = now_us() if at_us is None else at_us
        tenants = [tenant] if tenant is not None else list(self._system.ageing.tenants())
        for number, each in enumerate(tenants):
            metrics.SWEEP_TENANTS_LEFT.set(len(tenants) - number)
            for step in self._tenant(each, moment, dry_run):
                if not dry_run:
                    metrics.SWEPT.labels(step.what).inc(step.count)
                yield step

    def _tenant(self, tenant: str, moment: int, dry_run: bool) -> Iterator[Step]:
        policy, ageing = self._system.policies.policy_of(tenant), self._system.ageing
        yield from self._each(ageing.ended(tenant, moment), self._expire, dry_run)
        if policy.expired_days is not None:
            before = moment - round(policy.expired_days * DAY_US)
            yield from self._each(ageing.long_expired(tenant, before), self._delete, dry_run)
        yield from self._decay(tenant, policy, moment, dry_run)
        for rule in policy.retention:
            before = moment - round(rule.max_days * DAY_US)
            if rule.action == "archive":
                yield from self._each(
                    ageing.unchanged(tenant, rule, before), self._archive, dry_run
                )
            else:
                yield from self._retain(tenant, rule, before, dry_run)

    def _decay(
        self, tenant: str, policy: TenantPolicy, moment: int, dry_run: bool
    ) -> Iterator[Step]:
        if policy.archive_after_days:
            before = moment - round(policy.archive_after_days * DAY_US)
            idle = self._system.ageing.idle(tenant, before)
            yield from self._each(idle, self._archive, dry_run)

    def _retain(
        self, tenant: str, rule: RetentionRule, before_us: int, dry_run: bool
    ) -> Iterator[Step]:
        def retain(aged: Aged, dry_run: bool) -> list[Step]:
            return self._retain_cube(aged, before_us, dry_run)

        yield from self._each(self._system.ageing.older(tenant, rule, before_us), retain, dry_run)

    def _each(
        self, query: Query, change: Callable[[Aged, bool], list[Step]], dry_run: bool
    ) -> Iterator[Step]:
        """Change all cubes of a query, page by page; a cube that cannot be changed is left for later."""
        after = ""
        while page := query(after):
            for aged in page:
                after = aged.cube
                try:
                    yield from change(aged, dry_run)
                except VaultUnavailable:
                    raise
                except (
                    NotFound,
                    Conflict,
                    Forbidden,
                    Unprocessable,
                    DamagedPayload,
                    Unavailable,
                ) as error:
                    metrics.SWEPT.labels("failed").inc()
                    log.info("cube %s is left for the next sweep: %s", aged.cube, error)
            if len(page) < PAGE:
                return

    # -- one cube ---------------------------------------------------------------------------------

    def _expire(self, aged: Aged, dry_run: bool) -> list[Step]:
        return self._to_state(aged, State.EXPIRED, "expired", dry_run)

    def _archive(self, aged: Aged, dry_run: bool) -> list[Step]:
        return self._to_state(aged, State.ARCHIVED, "archived", dry_run)

    def _to_state(self, aged: Aged, state: State, what: str, dry_run: bool) -> list[Step]:
        if not dry_run:
            patch = CubePatch(state=state, provenance=Provenance(origin="sweep"))
            self._system.update(aged.owner, aged.cube, patch, if_match=aged.version)
        return [Step(what, aged.owner.tenant, aged.cube)]

    def _delete(self, aged: Aged, dry_run: bool) -> list[Step]:
        if not dry_run:
            self._system.delete(aged.owner, aged.cube, if_match=aged.version)
        return [Step("deleted", aged.owner.tenant, aged.cube)]

    def _retain_cube(self, aged: Aged, before_us: int, dry_run: bool) -> list[Step]:
        cube = self._system.vault.get(aged.owner, aged.cube, aged.version)
        changed = to_us(cube.meta.updated)
        if aged.kind is not Kind.EXPLICIT or not cube.items:
            if changed < before_us:
                return self._delete(aged, dry_run)
            return self._drop_versions(aged, before_us, dry_run)
        stored = self._system.ageing.stored_before(aged.cube, before_us)
        old = [item for item in cube.items if _is_old(item, before_us, stored)]
        if len(old) == len(cube.items):
            return self._delete(aged, dry_run)
        if not old:
            return self._drop_versions(aged, before_us, dry_run)
        if not dry_run:
            self._take_out(aged, cube.items, {item.id for item in old})
        return [Step("items", aged.owner.tenant, aged.cube, len(old))]

    def _drop_versions(self, aged: Aged, before_us: int, dry_run: bool) -> list[Step]:
        count = self._system.ageing.drop_versions(aged, before_us, dry_run)
        return [Step("versions", aged.owner.tenant, aged.cube, count)] if count else []

    def _take_out(self, aged: Aged, items: list[Item], old: set[str | None]) -> None:
        """Replace the items by the younger ones, and delete the versions that hold the older ones."""
        gone = Forgotten(new_id("sweep"), aged.cube, aged.version, aged.state)
        # An expired cube takes no payload; a kill before it is expired again leaves it archived.
        state = State.ARCHIVED if aged.state is State.EXPIRED else None
        patch = CubePatch(
            payload=ExplicitPayload(content=[item for item in items if item.id not in old]),
            state=state,
            provenance=Provenance(origin=ORIGIN),
        )
        made = self._system.update(
            aged.owner,
            aged.cube,
            patch,
            if_match=aged.version,
            in_transaction=self._system.ageing.purging(gone.subject),
        )
        if state is not None and made.meta.state is not State.EXPIRED:
            self._system.update(aged.owner, aged.cube, CubePatch(state=State.EXPIRED))
        self._system.forgotten.purge(gone.subject)


def counted(steps: Iterator[Step]) -> Counter[str]:
    """Steps by what they do; runs the sweep."""
    total: Counter[str] = Counter()
    for step in steps:
        total[step.what] += step.count
    return total


def _is_old(item: Item, before_us: int, stored: frozenset[str] | None) -> bool:
    """Whether an item was said, last said again, and stored before a time.

    Args:
        stored: items at that time; None: not known, and an item without a time counts as young.
    """
    times = [item.time, item.claim.last_seen if item.claim is not None else None]
    said = [to_us(time) for time in times if time is not None]
    if stored is None:
        return bool(said) and max(said) < before_us
    return item.id in stored and (not said or max(said) < before_us)
