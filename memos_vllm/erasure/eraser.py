"""Erase a person: one transaction in the database, then a durable job for everything outside of it.

    request   rows deleted, work that began before is fenced off, job queued: one transaction
    run       vectors, files, KV, copies of adapters; other processes learn of it; files compacted;
              everything counted again; receipt signed, the name itself erased

Each step is idempotent: after a kill, the next worker repeats the job from the ids in its record.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from memos_vllm.config.secrets import CACHE_SALT
from memos_vllm.cube.ids import PersonId, now_us, to_datetime, to_us
from memos_vllm.erasure.stores import OutsideStores
from memos_vllm.errors import Forbidden, MemosError, Unavailable
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Principal, Role, Scope, check_person
from memos_vllm.vault import audit, compaction, erasing, erasures
from memos_vllm.vault.erasures import Erasure
from memos_vllm.vault.jobs import Lane, Leases, new_holder

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
LEARNT_SECONDS = 2.5 * erasures.POLL_SECONDS
"""After so long every process that reaches the database has dropped what it cached."""
_HEARD_SECONDS = 60.0
NOT_COVERED = (
    "memory of other owners in which others speak of the person",
    "exported bundles, which left the server: see `exports`",
    "backups and archived logs of the database and the file systems",
    "access logs of proxies in front of the server, and ids that clients gave their requests",
    "blocks in the engine's memory: no later prompt reaches them, and they are overwritten when reused",
)


class Eraser:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    # -- for callers ------------------------------------------------------------------------------

    def request(self, caller: Principal, person: str, keep_frozen: bool = False) -> Erasure:
        """Erase a person from the database, and queue the rest.

        Raises:
            Forbidden: the caller is neither an admin nor a token of the person for `memory.delete`.
            Conflict: cubes are frozen, and `keep_frozen` is not given; nothing was erased.
            VaultUnavailable
        """
        name = self._check(caller, person)
        self._system.erasures.refresh()
        owner = Principal(caller.tenant, Role.READER, "", name)
        self._system.keys.secrets.read_now(CACHE_SALT)
        scopes = self._system.scopes.every_person(owner)
        with self._system.database.write() as session:
            begun = erasing.begin(
                session, caller, name, keep_frozen=keep_frozen, scopes_before=scopes
            )
        self._system.erasures.refresh()
        return self._system.erasures.get(caller.tenant, begun)

    def status(self, caller: Principal, erasure: str) -> Erasure:
        """Raises NotFound, Forbidden."""
        caller.require(Role.ADMIN)
        return self._system.erasures.get(caller.tenant, erasure)

    def subject_key(self, erasure: Erasure) -> str:
        """Key with which the person's name gives the receipt's `subject`."""
        return receipts.subject_key(self._system.erasures.subject_key(), erasure.id)

    def run_now(self, erasure: str) -> bool:
        """Run the job in this process; False: another process has it."""
        jobs, holder = self._system.jobs, new_holder()
        with self._system.database.write() as session:
            job = jobs.claim_in(session, Lane.ERASE, holder, subject=erasure)
        if job is None:
            return False
        leases = Leases(jobs)
        try:
            with leases.held(job):
                self.run(erasure)
        except MemosError as error:
            jobs.retry(job, type(error).__name__)
            raise
        finally:
            leases.stop()
        jobs.done(job)
        return True

    # -- the job ----------------------------------------------------------------------------------

    def run(self, erasure: str) -> None:
        """Handler of the job `erase`.

        Raises:
            Unavailable: a store does not answer; the job is repeated.
        """
        found = self._system.erasures.find(erasure)
        if found is not None and found.receipt is None:
            self._erase(found)
        compaction.empty_log(self._system.database)  # it still had the name

    def _erase(self, erasure: Erasure) -> None:
        note = self._system.erasures.note
        self._system.erasures.refresh()
        outside = OutsideStores(self._system, erasure)
        before = erasure.work.get("outside")
        if before is None:
            before = outside.count()
            note(erasure.id, "stores", outside=before)
        outside.wipe_cubes()
        note(erasure.id, "kv")
        outside.wipe_kv()
        outside.wipe_adapters()
        note(erasure.id, "processes")
        self._await_others(erasure)
        outside.wipe_kv()  # what a request in flight had stored meanwhile
        note(erasure.id, "compaction")
        vectors = outside.compact()
        database = compaction.compact(self._system.database, to_us(erasure.created))
        receipt = self._receipt(erasure, before, outside.count(), (vectors, database))
        with self._system.database.write() as session:
            erasures.finish(session, erasure.id, receipt)
            admin = Principal(erasure.tenant, Role.ADMIN, "erasure")
            detail = {"complete": receipt["complete"], "serial": erasure.serial}
            audit.record(session, admin, "person.erased", erasure.id, detail)
        log.info("erasure %s is done", erasure.id)

    def _await_others(self, erasure: Erasure) -> None:
        """Wait until every process has read that the person is erased.

        Raises:
            Unavailable: a server that runs has not; the job is repeated.
        """
        waited = (now_us() - to_us(erasure.created)) / 1_000_000
        time.sleep(min(LEARNT_SECONDS, max(0.0, LEARNT_SECONDS - waited)))
        end = time.monotonic() + _HEARD_SECONDS
        while unaware := self._system.replicas.unaware(erasure.serial):
            if time.monotonic() > end:
                raise Unavailable(f"servers that run do not know of the erasure: {unaware}")
            time.sleep(0.2)

    def _work(self, erasure: Erasure) -> dict[str, Any]:
        found = self._system.erasures.find(erasure.id)
        return dict(found.work) if found is not None else {}

    def _receipt(
        self,
        erasure: Erasure,
        outside_before: dict[str, int],
        outside_after: dict[str, int],
        compacted: tuple[bool, str],
    ) -> dict[str, Any]:
        work, system = erasure.work, self._system
        moment = to_us(erasure.created)
        with system.database.read() as session:
            after = erasing.counts(session, erasure.tenant, erasure.person, work["cubes"], moment)
        before = {**work["before"], **outside_before}
        after |= outside_after
        key = receipts.subject_key(system.erasures.subject_key(), erasure.id)
        vectors, database = compacted
        stores = [{"store": name, "before": before[name], "after": after[name]} for name in before]
        content = {
            "erasure": erasure.id,
            "tenant": erasure.tenant,
            "subject": receipts.subject_of(key, erasure.tenant, erasure.person),
            "audit_pseudonym": work["pseudonym"],
            "generation": erasure.serial,
            "requested": erasure.created.isoformat(),
            "finished": to_datetime(now_us()).isoformat(),
            "complete": not work["held"] and not any(after.values()),
            "stores": stores,
            "held": list(work["held"]),
            "exports": list(work["exports"]),
            "files": {
                "database": database,
                "vectors": "rewritten"
                if vectors
                else "a Chroma server has them: run its own compaction (`chroma vacuum`)",
                "kv": "overwritten; LMCache unlinks its objects without overwriting them",
            },
            "processes": f"{system.replicas.count()} servers run, and each has said that it knows",
            "engine": "prompts of the person have another salt and scope: KV of before is never hit",
            "not_covered": list(NOT_COVERED),
        }
        return receipts.signed(system.database.audit_keys.current, content)

    @staticmethod
    def _check(caller: Principal, person: str) -> PersonId:
        name = PersonId(check_person(person))
        if caller.token_id:
            if caller.person != name:
                raise Forbidden("a person token erases its own person only")
            caller.require_scope(Scope.DELETE)
        else:
            caller.require(Role.ADMIN)
        return name
