"""Quotas of what is stored, checked in the transaction that stores it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from memos_vllm.config.limits import LimitsPolicyConfig
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import QuotaExceeded
from memos_vllm.governance.limits.policy import LimitsPolicy
from memos_vllm.learning.queue import JobQueue, Postponed
from memos_vllm.learning.remember import Rememberer
from memos_vllm.vault import quotas
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import READ, JobStore, Lane
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.quotas import Quotas, admitted
from memos_vllm.vault.vault import MemVault
from tests.conftest import FakeQueue, principal
from tests.unit.test_vault_migration import downgrade

ANN, BOB = principal("ann"), principal("bob")


def new(*texts: str, name: str | None = None) -> NewCube:
    content = [Item(text=text) for text in texts]
    return NewCube(meta=NewMeta(name=name), payload=ExplicitPayload(content=content))


class Store:
    def __init__(self, url, folder, **limits):
        self.database = Database(url)
        self.database.migrate()
        self.folder = folder
        self.limit(**limits)
        self.vault = MemVault(self.database, PayloadStore(str(folder)))

    def limit(self, **limits):
        self.quotas = Quotas(LimitsPolicy(LimitsPolicyConfig(**limits)).limits_of)
        self.database.quotas = self.quotas

    def use(self, person="ann", tenant="acme"):
        query = sa.text(
            "SELECT cubes, items, text_bytes, adapters, adapter_bytes FROM owners "
            "WHERE tenant = :tenant AND person = :person"
        )
        with self.database.read() as session:
            return tuple(session.execute(query, {"tenant": tenant, "person": person}).one())

    def true_bytes(self):
        with self.database.read() as session:
            return session.execute(sa.text("SELECT SUM(payload_bytes) FROM versions")).scalar() or 0


@pytest.fixture
def store(database_url, tmp_path):
    made = []

    def make(**limits):
        made.append(Store(database_url, tmp_path / "payloads", **limits))
        return made[-1]

    yield make
    for one in made:
        one.database.dispose()


def test_a_full_quota_refuses_a_write_whole_and_says_which(store):
    one = store(cubes=2)
    one.vault.create(ANN, new("a"))
    one.vault.create(BOB, new("b"))
    with pytest.raises(QuotaExceeded, match="quota of cubes is full: 2"):
        one.vault.create(ANN, new("c"))
    assert one.use()[:2] == (1, 1)
    one.vault.create(principal("ann", "globex"), new("c"))
    # No payload of the refused write is left behind.
    assert len(list(one.folder.rglob("*.json"))) == 3


@pytest.mark.parametrize("limits", [{"items": 3}, {"person_items": 3}])
def test_items_are_counted_over_versions_and_freed_by_deletion(store, limits):
    one = store(**limits)
    made = one.vault.create(ANN, new("a", "b"))
    patch = CubePatch(append=[Item(text="c"), Item(text="d")])
    with pytest.raises(QuotaExceeded, match="quota of items"):
        one.vault.update(ANN, made.meta.id, patch)
    assert one.use()[1] == 2
    one.vault.update(ANN, made.meta.id, CubePatch(append=[Item(text="c")]))
    one.vault.delete(ANN, made.meta.id)
    one.vault.create(ANN, new("a", "b", "c"))


def test_a_persons_quota_is_the_persons_alone(store):
    one = store(person_cubes=1)
    one.vault.create(ANN, new("a"))
    with pytest.raises(QuotaExceeded, match="the person's quota"):
        one.vault.create(ANN, new("b"))
    one.vault.create(BOB, new("b"))


def test_bytes_of_all_versions_count_and_a_deletion_gives_them_back(store):
    one = store(text_bytes=10_000)
    made = one.vault.create(ANN, new("x" * 3000))
    one.vault.update(ANN, made.meta.id, CubePatch(payload=new("y" * 3000).payload))
    assert one.use()[2] == one.true_bytes() > 6000
    with pytest.raises(QuotaExceeded, match="bytes of text"):
        one.vault.create(ANN, new("z" * 6000))
    one.vault.delete(ANN, made.meta.id)
    assert one.use() == (0, 0, 0, 0, 0)
    one.vault.create(ANN, new("z" * 6000))


def test_an_accepted_turn_is_counted_and_not_refused(store):
    one = store(items=1)
    with admitted():
        one.vault.create(ANN, new("a", "b"))
    assert one.use()[1] == 2
    with pytest.raises(QuotaExceeded):
        one.vault.create(ANN, new("c"))


def test_a_turn_is_refused_beforehand_where_a_quota_is_full(store):
    one = store(items=2, person_cubes=1)
    assert one.quotas.full(one.database, ANN) is None
    one.vault.create(ANN, new("a"))
    assert "person's quota of cubes" in one.quotas.full(one.database, ANN)
    assert one.quotas.full(one.database, BOB) is None
    one.vault.create(BOB, new("b"))
    assert "tenant's quota of items" in one.quotas.full(one.database, principal("eve"))


def test_a_refused_write_does_not_use_up_the_quota(store):
    one = store(items=5)
    for _ in range(20):
        with pytest.raises(QuotaExceeded):
            one.vault.create(ANN, new(*"abcdefgh"))
    one.vault.create(ANN, new(*"abcde"))


def test_writes_of_another_process_are_seen_within_seconds(store, monkeypatch):
    one, other = store(cubes=3), store(cubes=3)
    one.vault.create(ANN, new("a"))
    for text in "bc":
        other.vault.create(BOB, new(text))
    # Within the time of a refresh a process may miss what another wrote, no longer.
    monkeypatch.setattr(quotas.time, "monotonic", lambda clock=quotas.time.monotonic: clock() + 9)
    with pytest.raises(QuotaExceeded):
        one.vault.create(ANN, new("d"))


def test_many_writers_at_once_stay_at_the_quota(store):
    one = store(cubes=10)
    people = [principal(f"p{n}") for n in range(6)]
    ready = threading.Barrier(6)

    def write(who):
        ready.wait()
        made = 0
        for text in "abcd":
            try:
                one.vault.create(who, new(text))
                made += 1
            except QuotaExceeded:
                pass
        return made

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(write, people)) == 10


def test_the_migration_counts_what_is_stored(store):
    one = store()
    made = one.vault.create(ANN, new("a", "b"))
    one.vault.update(ANN, made.meta.id, CubePatch(append=[Item(text="c")]))
    one.vault.create(BOB, new("d"))
    before = one.use(), one.use("bob")
    downgrade(one, "0009")
    one.database.migrate()
    assert (one.use(), one.use("bob")) == before
    assert before[0][2] + before[1][2] == one.true_bytes() > 0


def test_training_of_a_day_is_counted_and_ends_with_it(store, monkeypatch):
    one = store(training_minutes_per_day=2)
    assert one.quotas.training_left(one.database, "acme") == 120
    one.quotas.trained(one.database, "acme", 90)
    one.quotas.trained(one.database, "acme", 45)
    with pytest.raises(QuotaExceeded) as refused:
        one.quotas.check_training(one.database, "acme")
    assert 0 < refused.value.retry_after_seconds <= 86_400
    one.quotas.check_training(one.database, "globex")
    tomorrow = quotas.now_us() + 86_400_000_000
    monkeypatch.setattr(quotas, "now_us", lambda: tomorrow)
    one.quotas.check_training(one.database, "acme")


# -- background work ------------------------------------------------------------------------------


def test_a_postponed_job_waits_and_is_never_set_aside(system):
    calls = []

    def handler(subject):
        calls.append(subject)
        raise Postponed(300)

    queue = JobQueue(system.jobs, system.config.jobs)
    queue._handlers = {READ: handler}
    for _ in range(12):  # more often than a job may fail
        system.jobs.add(READ, "cube:r")
        with system.database.write() as session:
            session.execute(sa.text("UPDATE jobs SET not_before_us = 0"))
        queue._run(system.jobs.claim(Lane.SLOW, "here"))
        assert system.jobs.claim(Lane.SLOW, "here") is None
    assert len(calls) == 12
    assert system.jobs.failed() == []
    with system.database.read() as session:
        assert session.execute(sa.text("SELECT attempts FROM jobs")).scalar_one() == 0


def test_the_model_does_not_read_for_a_tenant_that_is_over_its_limits(system):
    rememberer = Rememberer(system, FakeQueue(JobStore(system.database), system.config.jobs))
    rememberer._wait_for_limits(ANN)
    system.pressure.refused("acme")
    with pytest.raises(Postponed) as postponed:
        rememberer._wait_for_limits(ANN)
    assert 0 < postponed.value.seconds <= 60
    rememberer._wait_for_limits(principal("ann", "globex"))


def test_a_full_quota_refuses_neither_forgetting_nor_a_change_of_state(config):
    from memos_vllm.cube.model import State
    from memos_vllm.learning.forget import Forgetting
    from memos_vllm.plaintext.reader.forgetting import read_orders
    from memos_vllm.system import MemorySystem
    from tests.conftest import make_config

    limits = {"text_bytes": 600}
    system = MemorySystem(make_config(config.home, governance={"limits": limits})).open()
    made = system.create(ANN, [new("My cat is called Miso.", "x" * 100)])[0]
    with pytest.raises(QuotaExceeded):
        system.update(ANN, made.meta.id, CubePatch(append=[Item(text="y" * 500)]))
    found = read_orders("Forget that my cat is called Miso.")
    outcome = Forgetting(system).orders(ANN, found.orders)
    assert outcome is not None
    assert "Miso" not in str(system.vault.get(ANN, made.meta.id).items)
    system.update(ANN, made.meta.id, CubePatch(state=State.ARCHIVED))
    system.close()
