"""After the reply: a turn becomes memory, in the background, once.

    answered → pending turn in the vault (before the reply's end is sent) → job → one transaction:
    items of the session's cube, one new version, the pending turn crossed off → index (the outbox)

A kill anywhere loses nothing that was acknowledged and doubles nothing: pending turns without a job
get one at start, and a job that was cut off runs again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from memos_vllm import metrics, steps
from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    MemCube,
    NewCube,
    NewMeta,
    Provenance,
    State,
)
from memos_vllm.errors import Conflict, DamagedPayload, Unprocessable, VaultUnavailable
from memos_vllm.governance.principal import Principal, persona_tag
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.learning.extract import Extractor, subject_of
from memos_vllm.learning.feedback import Feedback, wants_forgotten
from memos_vllm.learning.lifecycle import archive_idle
from memos_vllm.learning.queue import JobQueue
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.reader.turns import session_name, turn_items
from memos_vllm.system import MemorySystem
from memos_vllm.vault.turns import PendingTurn, TurnIsMemory
from memos_vllm.vault.views import CubeFilter

log = logging.getLogger(__name__)
_JOB, READ = "remember", "read"
_SWEEP_SECONDS = 30.0
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
        self._consolidator = Consolidator(system)
        self._steps = steps.load(system.config.pipeline.learn, system)
        self._feedback = Feedback(system)
        self._extractor = extractor
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._jobs.start({_JOB: self.remember, READ: self._read})
        self._resubmit(self._system.turns.waiting())
        self._thread = threading.Thread(target=self._sweep, name="memos-sweeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._jobs.stop()

    def accept(self, principal: Principal, body: Mapping[str, Any]) -> str:
        """Make a turn durable and queue its job; returns the turn's id."""
        turn_id = self._system.turns.add(principal, dict(body))
        try:
            self._jobs.submit(_JOB, turn_id)
        except VaultUnavailable as error:
            log.warning("a turn is stored and gets its job later: %s", error)
        return turn_id

    def remember(self, turn_id: str) -> None:
        """The job: append the turn to its session's cube."""
        turn = self._system.turns.get(turn_id)
        if turn is None:
            return
        if self._forgets(turn):
            self._system.turns.done(turn_id)
            return
        with metrics.REMEMBER_SECONDS.time():
            self._claim(turn)
            cube = self._append(turn)
        if cube is not None:
            self._system.settle([CubeId(cube.meta.id)])
            self._system.operator.refresh(turn.principal)
            metrics.REMEMBERED_TURNS.inc()
            if self._extractor is not None:
                self._jobs.submit(READ, subject_of(cube.meta.id, turn.body["request_id"]))

    def _read(self, subject: str) -> None:
        if self._extractor is not None:
            self._extractor.read(subject)

    def _forgets(self, turn: PendingTurn) -> bool:
        """ "Forget that …": done, and the turn itself is not kept, whatever was found: it says it once
        more, and after a kill the second run finds nothing."""
        what = wants_forgotten(turn.body["user"])
        if what is None or not turn.principal.person:
            return False
        try:
            self._feedback.forget(turn.principal, what)
        except Unprocessable as error:
            log.info("not forgotten: %s", error)
            return False
        return True

    def _claim(self, turn: PendingTurn) -> None:
        """What the person says of themselves. Before the turn is crossed off: doing it again after a
        kill changes nothing."""
        person = turn.principal.person
        if not self._system.config.remember.claims or not person:
            return
        items = turn_items(turn.body, person, session_name(turn.principal.session, turn.body))
        claims = read_claims(items, person)
        if self._steps:
            learn = steps.Learn(turn.principal, items, claims)
            claims = list(steps.run(self._steps, learn).claims)
        if claims:
            self._consolidator.take(turn.principal, claims, origin="chat")

    def _append(self, turn: PendingTurn) -> MemCube | None:
        session = session_name(turn.principal.session, turn.body)
        fresh = self._system.cut_items(turn_items(turn.body, turn.principal.person, session))
        if not fresh:
            self._system.turns.done(turn.id)
            return None
        while True:
            part, current = self._latest_part(turn.principal, session)
            try:
                return self._append_to(turn, session, part, current, fresh)
            except Conflict:
                continue  # another turn of the same session was faster: read again
            except TurnIsMemory:
                return None

    def _append_to(
        self,
        turn: PendingTurn,
        session: str,
        part: int,
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
        in_transaction = self._system.turns.crossing_off(turn.id)
        held = _items(current) if current else []
        limit = self._system.config.remember.items_per_cube
        if current is None or len(held) + len(fresh) > limit:
            meta = NewMeta(
                name=f"{cube_name(session, principal.persona)}#{part + 1}",
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

    def _latest_part(self, principal: Principal, session: str) -> tuple[int, MemCube | None]:
        """Number and cube of the session's newest part; 0 when it has none.

        A part that cannot be written to (damaged, frozen, archived, expired) is left as it is: its
        number comes without a cube, and the session goes on in a new one.
        """
        where = CubeFilter(
            person=principal.person, name_prefix=f"{cube_name(session, principal.persona)}#"
        )
        headers, _ = self._system.views.page(principal, where, limit=1)
        if not headers:
            return 0, None
        part = int((headers[0].name or "#0").rpartition("#")[2])
        if headers[0].state != State.ACTIVATED:
            return part, None
        try:
            return part, self._system.vault.get(principal, headers[0].id)
        except DamagedPayload as error:
            log.error("a conversation goes on in a new cube: %s", error)
            return part, None

    def _sweep(self) -> None:
        """Turns whose job failed, or that another replica accepted and never finished; and what fades."""
        while not self._stop.wait(_SWEEP_SECONDS):
            try:
                self._resubmit(self._system.turns.waiting(older_than_seconds=2 * _SWEEP_SECONDS))
                self._jobs.forget_finished()
                archive_idle(self._system)
            except VaultUnavailable as error:
                log.warning("unfinished turns are looked for later: %s", error)

    def _resubmit(self, turn_ids: list[str]) -> None:
        for turn_id in turn_ids:
            self._jobs.submit(_JOB, turn_id, attempt=int(time.time()))


def cube_name(session: str, persona: str | None = None) -> str:
    """`chat-<session>`; a session that would not do as a name is named by its digest."""
    if not _PLAIN.match(session):
        session = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    # No session's own name has a tilde.
    return f"chat-{session}~{persona}" if persona else f"chat-{session}"


def _items(cube: MemCube) -> list[Item]:
    content = cube.payload.content
    return content if isinstance(content, list) else []
