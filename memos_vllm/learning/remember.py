"""Make a turn memory after its reply, in the background, exactly once.

    answered → pending turn and its job, one transaction (before the end of the reply is sent) → job
    → one transaction: items of the session's cube, one new version, the pending turn deleted
    → index (the outbox)

A kill at any point loses no acknowledged turn and doubles none: the job of a dead process runs again
when its lease ends, and finds the turn deleted if it had become memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from memos_vllm import metrics, zones
from memos_vllm.cube.ids import CubeId, now_us, to_datetime
from memos_vllm.cube.model import (
    ASSISTANT,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    MemCube,
    NewCube,
    NewMeta,
    Provenance,
)
from memos_vllm.errors import Conflict, Unavailable, VaultUnavailable
from memos_vllm.governance.principal import Principal, persona_tag
from memos_vllm.learning.extract import Extractor, subject_of
from memos_vllm.learning.forget import MOST_FORGOTTEN, Forgetting, Outcome
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.learning.queue import Handler, JobQueue, Postponed
from memos_vllm.learning.recent import until_known
from memos_vllm.learning.restore import Restoring
from memos_vllm.learning.series import newest_part
from memos_vllm.learning.sweep import SUBJECT, Sweep
from memos_vllm.learning.turn_claims import TurnClaims
from memos_vllm.memstore.follow import Following
from memos_vllm.plaintext.reader.forgetting import Order, read_orders
from memos_vllm.plaintext.reader.turns import session_name, turn_items
from memos_vllm.prompt.messages import Message
from memos_vllm.scheduler.plan import Forgot, ForgottenPart
from memos_vllm.system import MemorySystem
from memos_vllm.vault.jobs import PURGE, READ, REMEMBER, RESTORE, STORE, SWEEP
from memos_vllm.vault.quotas import admitted
from memos_vllm.vault.turns import PendingTurn, TurnIsMemory

log = logging.getLogger(__name__)
_FULL_SECONDS = 600.0
"""Pause of reading for a person whose quota is full."""
_PLAIN = re.compile(r"^[\w.:@+ -]{1,120}$")


class Rememberer:
    def __init__(
        self, system: MemorySystem, jobs: JobQueue, extractor: Extractor | None = None
    ) -> None:
        """Prepare the jobs that turn turns into memory.

        Args:
            extractor: reads each turn once more, by a model; None: rules alone read it.
        """
        self._system = system
        self._jobs = jobs
        self._claims = TurnClaims(system)
        self._forgetting = Forgetting(system)
        self._extractor = extractor
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, also: Mapping[str, Handler] | None = None) -> None:
        """Start the workers.

        Args:
            also: handlers of further jobs, by name.
        """
        own: dict[str, Handler] = {
            REMEMBER: self.remember,
            READ: self._read,
            PURGE: self._forgetting.purge,
            SWEEP: Sweep(self._system).job,
            RESTORE: Restoring(self._system).job,
            STORE: Following(self._system).job,
        }
        self._jobs.start({**own, **(also or {})})
        self._thread = threading.Thread(target=self._age, name="memos-lifecycle", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._jobs.stop()

    def accept(
        self,
        principal: Principal,
        body: Mapping[str, Any],
        turn_id: str | None = None,
        is_repeated: bool = False,
    ) -> str:
        """Store a turn with its job and wake a worker; arguments and result as of `PendingTurns.add`."""
        turn_id = self._system.turns.add(principal, dict(body), turn_id, is_repeated)
        self._jobs.wake(REMEMBER)
        return turn_id

    async def until_known(self, principal: Principal, messages: Sequence[Message] = ()) -> None:
        """Wait until the person's last turns, but those of this conversation, are memory."""
        wake = functools.partial(self._jobs.wake, REMEMBER)
        await until_known(self._system.turns, principal, messages, wake)

    async def full(self, principal: Principal) -> str | None:
        """Why a quota forbids to remember a turn; None: it does not, or the vault does not answer."""
        quotas = self._system.quotas
        if not quotas.limits_turns(principal.tenant):
            return None
        try:
            return await asyncio.to_thread(quotas.full, self._system.database, principal)
        except VaultUnavailable:
            return None

    def remember(self, turn_id: str) -> None:
        """Handler of the job `remember`: append the turn to its session's cube.

        The turn was accepted: a quota that has become full meanwhile does not refuse it.
        """
        with admitted():
            self._remember(turn_id)

    def _remember(self, turn_id: str) -> None:
        turn = self._system.turns.get(turn_id)
        if turn is None:
            return
        tenant = turn.principal.tenant
        if not self._system.policies.policy_of(tenant).allows("plaintext"):
            log.info("a turn is dropped: the policy of its tenant allows no plaintext memory")
            self._system.turns.done(turn_id)
            return
        turn = self._without_orders(turn)
        if turn is None:
            self._system.turns.done(turn_id)
            return
        with metrics.REMEMBER_SECONDS.time():
            self._claim(turn)
            cube = self._append(turn)
        if cube is not None:
            self._system.settle([CubeId(cube.meta.id)])
            self._system.operator.refresh(turn.principal)
            metrics.REMEMBERED_TURNS.inc()
            if self._extractor is not None and self._extractor.reads:
                self._jobs.submit(READ, subject_of(cube.meta.id, turn.body["request_id"]))

    def _read(self, subject: str) -> None:
        """Handler of the job `read`."""
        if self._extractor is None:
            return
        principal = self._system.knowledge.owner(subject.partition(":")[0])
        if principal is not None:
            self._wait_for_limits(principal)
        with admitted():
            self._extractor.read(subject)

    def _wait_for_limits(self, principal: Principal) -> None:
        """Put off the engine's work for a tenant that is over its limits. Raises Postponed."""
        left = self._system.pressure.left(principal.tenant)
        if left:
            raise Postponed(left)
        if self._system.quotas.full(self._system.database, principal) is not None:
            raise Postponed(_FULL_SECONDS)

    def prepared(
        self, tenant: str, body: dict[str, Any], zone: str | None, forgot: bool
    ) -> tuple[dict[str, Any], int]:
        """A turn's stored form with the person's zone and without secrets, and how many it had.

        Args:
            forgot: whether its orders to forget are carried out already.
        """
        body, count = self._system.redactors.of(tenant).body(body)
        zone = zone or self._system.config.reader.timezone
        return {**body, "timezone": zone, "forgot": forgot}, count

    def now(self, zone: str | None) -> datetime:
        """The time of day of a person.

        Args:
            zone: of the request; None: `reader.timezone`.
        """
        return zones.local(now_us(), zone or self._system.config.reader.timezone)

    async def ordered(self, principal: Principal, orders: Sequence[Order]) -> Forgot | None:
        """Carry out orders to forget; None: memory does not answer, and the turn's job does it."""
        try:
            return await asyncio.to_thread(self.forget, principal, orders)
        except (Unavailable, Conflict) as error:
            log.warning("an order to forget is carried out later: %s", error)
            return None

    def forget(self, principal: Principal, orders: Sequence[Order]) -> Forgot:
        """Carry out orders of a chat, now: what the person said before becomes memory first.

        Raises:
            VaultUnavailable, SegmentsUnavailable, Conflict
        """
        for turn_id in self._system.turns.waiting_of(principal):
            self.remember(turn_id)
        return _told(self._forgetting.orders(principal, orders))

    def _without_orders(self, turn: PendingTurn) -> PendingTurn | None:
        """The turn without its orders to forget, its reply to them and what they name; None: nothing
        is left. Orders that the request could not carry out are carried out, for what was said before."""
        found = read_orders(turn.body["user"]) if turn.principal.person else None
        if found is None:
            return turn
        if not turn.body.get("forgot"):
            self._forgetting.orders(
                turn.principal, found.orders, until=to_datetime(turn.body["at_us"])
            )
        rest = self._forgetting.rest(turn.principal, found.rest, found.orders)
        if not rest:
            return None
        body = {**turn.body, "user": rest, "reply": ""}
        body.pop("tools", None)
        return dataclasses.replace(turn, body=body)

    def _claim(self, turn: PendingTurn) -> None:
        """Take up what the person says of themselves. It runs before the turn is deleted, as a second
        run after a kill changes nothing."""
        person = turn.principal.person
        if person:
            session = session_name(turn.principal.session, turn.body)
            self._claims.take(turn.principal, turn_items(turn.body, person, session))

    def _append(self, turn: PendingTurn) -> MemCube | None:
        session = session_name(turn.principal.session, turn.body)
        fresh = self._system.cut_items(turn_items(turn.body, turn.principal.person, session))
        if not fresh:
            self._system.turns.done(turn.id)
            return None

        redactor = self._system.redactors.of(turn.principal.tenant)

        def append() -> MemCube:
            name = cube_name(session, turn.principal.persona, redactor.holds_any(session))
            following, current = newest_part(self._system, turn.principal, name, "chat")
            return self._append_to(turn, session, following, current, fresh)

        try:
            return retry_conflicts(
                append, "other turns of the session change its cube all the time"
            )
        except TurnIsMemory:
            return None

    def _append_to(
        self,
        turn: PendingTurn,
        session: str,
        following: str,
        current: MemCube | None,
        fresh: list[Item],
    ) -> MemCube:
        principal = turn.principal
        provenance = Provenance(
            origin="chat",
            session=session[:500],
            message_ids=[turn.body["request_id"][:500]],
            model=turn.body["model"][:500],
            prompt_sha256=turn.body["prompt_sha256"],
        )
        in_transaction = self._system.turns.deletion_of(turn.id)
        limit = self._system.config.remember.items_per_cube
        if current is None or len(current.items) + len(fresh) > limit:
            meta = NewMeta(
                name=following,
                tags=["chat", *persona_tag(principal.persona)],
                provenance=provenance,
            )
            return self._system.vault.create(
                principal,
                NewCube(meta=meta, payload=ExplicitPayload(content=fresh)),
                in_transaction,
            )
        patch = CubePatch(append=fresh, provenance=provenance)
        return self._system.vault.update(
            principal,
            current.meta.id,
            patch,
            if_match=current.meta.version,
            in_transaction=in_transaction,
        )

    def _age(self) -> None:
        """Queue a sweep, and a look for newer bundles, now and then: once for all processes."""
        pauses = {
            SWEEP: self._system.config.lifecycle.sweep_seconds,
            STORE: self._system.config.store.check_hours * 3600,
        }
        due = {job: time.monotonic() + pause for job, pause in pauses.items()}
        while not self._stop.wait(max(0.0, min(due.values()) - time.monotonic())):
            for job in [job for job, at in due.items() if at <= time.monotonic()]:
                due[job] = time.monotonic() + pauses[job]
                try:
                    self._system.jobs.renew(job, SUBJECT)
                    self._jobs.wake(job)
                except VaultUnavailable as error:
                    log.warning("the job %s is queued later: %s", job, error)


def cube_name(session: str, persona: str | None = None, is_redacted: bool = False) -> str:
    """`chat-<session>`, by the digest of a session that is not a valid name.

    Args:
        is_redacted: the session's name holds what the tenant's policy keeps out of names.
    """
    if is_redacted or not _PLAIN.match(session):
        session = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    # _PLAIN allows no tilde in a session.
    return f"chat-{session}~{persona}" if persona else f"chat-{session}"


def _told(outcome: Outcome) -> Forgot:
    """An outcome without any text, for the reply and for `explain`."""
    return Forgot(
        count=0 if outcome.too_many else len(outcome.removals),
        matched=len(outcome.removals),
        all=outcome.is_wide,
        done=not outcome.too_many,
        items=[
            ForgottenPart(
                item=each.item.id or "",
                cube=each.cube,
                what=_kind(each.item),
                said=each.item.time.date().isoformat() if each.item.time is not None else None,
                part="whole" if each.is_whole else "sentences",
            )
            for each in outcome.removals[:MOST_FORGOTTEN]
        ],
        held=outcome.held,
        undo=outcome.undo,
        undo_until=outcome.undo_until if outcome.undo else None,
    )


def _kind(item: Item) -> str:
    if item.type is ItemType.TOOL_TRACE:
        return "tool result"
    if item.type is ItemType.EPISODE:
        return "reply" if item.speaker == ASSISTANT else "turn"
    return str(item.type)
