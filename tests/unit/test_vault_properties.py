"""Any sequence of create, update, roll back, delete and kill keeps the vault's invariants.

A kill is an exception at a random place inside the operation, after which the vault is opened anew,
as after `kill -9`: uncommitted changes are gone, committed ones are there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.principal import Role
from memos_vllm.vault import audit, items
from memos_vllm.vault.audit_log import AuditLog
from memos_vllm.vault.database import Database
from memos_vllm.vault.outbox import Outbox
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.vault import MemVault
from memos_vllm.vault.views import VaultViews
from tests.conftest import principal
from tests.effort import examples

ALICE = principal("alice")
TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), max_size=4
)


class Killed(BaseException):
    """A BaseException, so that no handler of the product catches it."""


# Places inside a change at which the process may die.
PLACES = (
    (PayloadStore, "put"),
    (items, "sync_items"),
    (items, "touch_owner"),
    (audit, "record"),
)


class VaultMachine(RuleBasedStateMachine):
    cubes = Bundle("cubes")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[str, list[list[str]]] = {}
        self.indexed: dict[str, set[str]] = {}
        self.open()

    def open(self) -> None:
        self.database = Database(
            f"sqlite:///{self.folder / 'vault.sqlite'}",
            audit_keys=AuditKeys(self.folder / "audit.keys"),
        )
        self.database.migrate()
        self.payloads = PayloadStore(str(self.folder / "payloads"))
        self.vault = MemVault(self.database, self.payloads)

    def teardown(self) -> None:
        self.database.dispose()
        shutil.rmtree(self.folder)

    @rule(target=cubes, texts=TEXTS)
    def create(self, texts: list[str]) -> str:
        made = self.vault.create(ALICE, NewCube(payload=_payload(texts)))
        self.model[made.meta.id] = [texts]
        return made.meta.id

    @rule(cube=cubes, texts=TEXTS)
    def update(self, cube: str, texts: list[str]) -> None:
        self.vault.update(ALICE, cube, CubePatch(payload=_payload(texts)))
        self.model[cube].append(texts)

    @rule(cube=cubes, text=st.text("ab", min_size=1))
    def append(self, cube: str, text: str) -> None:
        self.vault.update(ALICE, cube, CubePatch(append=[Item(text=text)]))
        self.model[cube].append([*self.model[cube][-1], text])

    @rule(cube=cubes, data=st.data())
    def rollback(self, cube: str, data: st.DataObject) -> None:
        history = self.vault.history(ALICE, cube)[::-1]
        position = data.draw(st.integers(0, len(history) - 1))
        self.vault.rollback(ALICE, cube, history[position].id)
        self.model[cube].append(self.model[cube][position])

    @rule(cube=consumes(cubes))
    def delete(self, cube: str) -> None:
        self.vault.delete(ALICE, cube)
        del self.model[cube]

    @rule(cube=cubes, place=st.sampled_from(PLACES), after=st.booleans(), texts=TEXTS)
    def killed_while_updating(self, cube: str, place: tuple, after: bool, texts: list[str]) -> None:
        owner, name = place
        real = getattr(owner, name)

        def die(*args: object, **kwargs: object) -> None:
            if after:
                real(*args, **kwargs)
            raise Killed

        try:
            with mock.patch.object(owner, name, die):
                self.vault.update(ALICE, cube, CubePatch(payload=_payload(texts)))
        except Killed:
            pass
        self.database.dispose()
        self.open()

    @rule()
    def index_some(self) -> None:
        """Process the outbox, with a plain set in place of Chroma."""
        outbox = Outbox(self.database)
        for work in outbox.pending(limit=5):
            held = self.indexed.setdefault(work.cube, set())
            if work.drop:
                held.clear()
            held -= set(work.deletes)
            held |= {item.id for item in work.upserts}
            outbox.done([work])

    @invariant()
    def every_version_is_there_and_reads_as_written(self) -> None:
        for cube, versions in self.model.items():
            history = self.vault.history(ALICE, cube)
            assert [version.sequence for version in history] == list(range(len(versions), 0, -1))
            head = self.vault.get(ALICE, cube)
            assert [item.text for item in head.payload.content] == versions[-1]
            oldest = self.vault.get(ALICE, cube, history[-1].id)
            assert [item.text for item in oldest.payload.content] == versions[0]

    @invariant()
    def rows_and_counters_agree_with_the_payloads(self) -> None:
        with self.database.read() as session:
            ids = set(session.scalars(sa.text("SELECT id FROM cubes")))
            rows = session.scalar(sa.text("SELECT count(*) FROM items"))
        assert ids == set(self.model)
        expected = sum(len(versions[-1]) for versions in self.model.values())
        assert rows == expected
        counted = sum(state.items for state in VaultViews(self.database).owners(ALICE))
        assert counted == expected

    @invariant()
    def the_outbox_holds_all_that_the_index_lacks(self) -> None:
        held = {cube: set(found) for cube, found in self.indexed.items()}
        for work in Outbox(self.database).pending(limit=10_000):
            found = held.setdefault(work.cube, set())
            if work.drop:
                found.clear()
            found -= set(work.deletes)
            found |= {item.id for item in work.upserts}
        for cube in self.model:
            wanted = {item.id for item in self.vault.get(ALICE, cube).payload.content}
            assert held.get(cube, set()) == wanted
        assert all(not found for cube, found in held.items() if cube not in self.model)

    @invariant()
    def the_audit_chain_is_whole(self) -> None:
        assert AuditLog(self.database).verify(principal("", role=Role.ADMIN)) == []


def _payload(texts: list[str]) -> ExplicitPayload:
    return ExplicitPayload(content=[Item(text=text) for text in texts])


TestVault = pytest.mark.slow(VaultMachine.TestCase)
TestVault.settings = settings(
    max_examples=examples(15),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
