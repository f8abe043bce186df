"""Servers of one database: who joins, who does not, and who is known to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import now_us
from memos_vllm.erasure import eraser as eraser_module
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import ConfigError, Unavailable, VaultUnavailable
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault import database as database_module
from memos_vllm.vault.database import Database
from memos_vllm.vault.replica_tables import ReplicaRow
from memos_vllm.vault.replicas import Replicas
from tests.conftest import make_config, principal

TRAITS = {"embedder": "granite|1", "model": "abc"}


@pytest.fixture
def database(database_url: str) -> Database:
    made = Database(database_url)
    made.migrate()
    return made


@pytest.fixture
def replica(database: Database) -> Callable[..., Replicas]:
    made: list[Replicas] = []

    def join(learnt: int = 0, **traits: str) -> Replicas:
        made.append(Replicas(database, lambda: learnt))
        made[-1].join(TRAITS | traits)
        return made[-1]

    yield join
    for each in made:
        each.leave()
    database.dispose()


def test_servers_that_are_alike_join_and_leave(replica):
    one, two = replica(), replica()
    assert one.count() == two.count() == 2
    two.leave()
    assert one.count() == 1


@pytest.mark.parametrize("name", TRAITS)
def test_a_server_that_differs_does_not_join_and_says_in_what(replica, name):
    one = replica()
    with pytest.raises(ConfigError) as refused:
        replica(**{name: "another"})
    assert f"its {name} is another, there it is {TRAITS[name]}" in str(refused.value)
    assert f"process {os.getpid()} on" in str(refused.value)
    assert one.count() == 1, "it is not one of them"
    one.leave()
    replica(**{name: "another"})


def test_a_server_of_several_models_names_none(database):
    one, two = Replicas(database, lambda: 0), Replicas(database, lambda: 0)
    one.join(TRAITS)
    two.join({"embedder": TRAITS["embedder"]})
    assert one.count() == 2
    one.leave()
    two.leave()
    database.dispose()


def test_a_killed_server_of_this_machine_is_gone_and_one_of_another_for_a_while(replica, database):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    one = replica()
    with database.write() as session:
        (mine,) = session.scalars(sa.select(ReplicaRow))
        here = {"host": mine.host, "seen_us": now_us(), "traits": {"model": "other"}, "learnt": 0}
        begun = mine.begun_us
        session.add(ReplicaRow(id="dead", pid=child.pid, begun_us=begun - 10**9, **here))
        session.add(
            ReplicaRow(id="away", pid=1, begun_us=1, **(here | {"host": "elsewhere.example"}))
        )
    assert one.count() == 2, "the number of a dead process belongs to another one now"
    child.send_signal(signal.SIGKILL)
    child.wait()
    with pytest.raises(ConfigError, match=r"on elsewhere\.example"):
        replica()
    with database.write() as session:
        late = now_us() - int(database_module.LIVE_SECONDS * 1_000_000)
        session.execute(sa.update(ReplicaRow).where(ReplicaRow.id == "away").values(seen_us=late))
    assert one.count() == 1
    replica()


def test_an_erasure_is_done_when_every_server_knows_of_it(
    tmp_path: Path, database_url, monkeypatch
):
    monkeypatch.setattr(eraser_module, "LEARNT_SECONDS", 0.0)
    monkeypatch.setattr(eraser_module, "_HEARD_SECONDS", 0.3)
    system = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    other = Replicas(system.database, lambda: 0)
    try:
        system.replicas.join(TRAITS)
        other.join(TRAITS)
        admin = principal("root", role=Role.ADMIN)
        begun = Eraser(system).request(admin, "ann")
        with pytest.raises(Unavailable, match="do not know of the erasure"):
            Eraser(system).run(begun.id)
        assert system.erasures.find(begun.id).receipt is None
        with mock.patch.object(eraser_module, "_HEARD_SECONDS", 30.0):
            other._learnt = lambda: begun.serial
            Eraser(system).run(begun.id)
        receipt = system.erasures.find(begun.id).receipt
        assert receipt["processes"] == "2 servers run, and each has said that it knows"
    finally:
        other.leave()
        system.close()


def test_a_schema_is_not_changed_under_servers_that_run(replica, database, monkeypatch):
    replica()
    with database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '0016'"))
    with pytest.raises(ConfigError, match="servers of an older version run"):
        database.migrate()
    monkeypatch.setattr(database_module, "LIVE_SECONDS", 0.0)
    with pytest.raises((sa.exc.SQLAlchemyError, VaultUnavailable), match=r"replicas.* exists"):
        database.migrate()  # it goes on, to find the table that this database has already


def test_a_server_knows_of_an_erasure_when_all_its_caches_do(tmp_path, database_url):
    system = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    other = MemorySystem(make_config(tmp_path / "other", database={"url": database_url})).open()
    fails = [True]

    def cache(_: object) -> None:
        if fails[0]:
            raise VaultUnavailable("a cache that cannot be emptied yet")

    try:
        other.erasures.listen(cache)
        begun = Eraser(system).request(principal("root", role=Role.ADMIN), "ann")
        with pytest.raises(VaultUnavailable):
            other.erasures.refresh()
        assert (other.erasures.serial, other.erasures.learnt) == (begun.serial, 0)
        fails[0] = False
        other.erasures.refresh()
        assert other.erasures.learnt == begun.serial
    finally:
        system.close()
        other.close()
