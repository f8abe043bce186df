"""A vault whose PostgreSQL is killed with all its backends and started again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.errors import VaultUnavailable
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner
from memos_vllm.vault.jobs import Lane
from tests.conftest import make_config, principal
from tests.engine.postgres import Postgres

ALICE = principal("alice")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    if (absent := Postgres.missing()) is not None:
        pytest.skip(absent)
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.close()


def cube(text: str) -> NewCube:
    return NewCube(payload=ExplicitPayload(content=[Item(text=text)]))


def test_a_system_goes_on_with_its_database_after_a_kill(postgres, tmp_path):
    system = MemorySystem(make_config(tmp_path, database={"url": postgres.url})).open()
    turn = {"user": "Hello.", "reply": "Hi."}
    try:
        kept = system.vault.create(ALICE, cube("The boat is blue."))
        waiting = system.turns.add(ALICE, turn)
        with system.database.read() as session:  # an open transaction, and connections in the pool
            session.connection()
            postgres.kill()
        for call in (
            lambda: system.vault.create(ALICE, cube("Lost.")),
            lambda: system.vault.get(ALICE, kept.meta.id),
            lambda: system.turns.add(ALICE, turn),
            lambda: system.jobs.claim(Lane.FAST, "test"),
            lambda: system.views.owners(ALICE),
        ):
            with pytest.raises(VaultUnavailable):
                call()
        postgres.start()
        assert system.vault.get(ALICE, kept.meta.id).payload.content[0].text == "The boat is blue."
        assert system.turns.waiting() == [waiting]
        owner = Owner(ALICE.tenant, ALICE.person)
        assert list(system.index_state.cubes(owner)), "no other cube than the acknowledged one"
        assert len(list(system.index_state.cubes(owner))) == 1
    finally:
        system.close()


def test_a_transaction_that_the_kill_cuts_is_undone(postgres, tmp_path):
    system = MemorySystem(make_config(tmp_path, database={"url": postgres.url})).open()
    try:
        with pytest.raises(VaultUnavailable):
            system.vault.create(ALICE, cube("Cut."), lambda _: postgres.kill())
        postgres.start()
        assert system.views.owners(ALICE) == []
        system.vault.create(ALICE, cube("Cut."))
    finally:
        system.close()
