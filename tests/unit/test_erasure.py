"""Erasing a person: nothing of them is left, work of before writes nothing, others keep all, and it is signed."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import CubeId, PersonId
from memos_vllm.cube.model import (
    Access,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    Provenance,
)
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import Conflict, Erased, IndexUnavailable, NotFound
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Role
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.system import MemorySystem
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill
from memos_vllm.vault import records
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.items import Owner
from memos_vllm.vault.tables import DerivedRow
from memos_vllm.vault.transform_rows import JobState
from memos_vllm.vault.views import CubeFilter
from tests.conftest import freeze, make_config, principal
from tests.erasure import ADMIN, CANARIES, NAME, erase, fill, findings, forms, rows, said
from tests.erasure import _no_other_process as _no_other_process
from tests.erasure import eraser as eraser
from tests.unit.test_transforms import adapter, text

BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, unless a test asks for both: each erasure takes seconds."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'vault.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")()
    return url


@pytest.fixture
def system(database_url: str, tmp_path: Path) -> Iterator[MemorySystem]:
    # Chroma as in production: its files are looked into.
    config = make_config(
        tmp_path / "home", database={"url": database_url}, chroma={"process": True}
    )
    opened = MemorySystem(config).open()
    yield opened
    opened.close()


@BOTH
def test_nothing_of_an_erased_person_is_left_and_others_keep_all(
    system: MemorySystem, eraser: Eraser, tmp_path: Path
) -> None:
    zoe, bob = principal(NAME), principal("bob")
    ids = fill(system, zoe)
    text(system, bob, "The harbour is blue.", name="notes")
    shared = text(system, ADMIN, "For two.", shared=True, access=Access(readers=[NAME, "bob"]))
    written = dataclasses.replace(zoe, role=Role.ADMIN)
    theirs = text(system, written, "By her.", shared=True)
    assert findings(tmp_path, NAME) or not system.database.is_sqlite
    receipt = erase(eraser)
    counted = {each["store"]: (each["before"], each["after"]) for each in receipt["stores"]}
    for store in (
        "cubes",
        "versions",
        "items",
        "pending_turns",
        "plans",
        "jobs",
        "idempotency",
        "group_members",
    ):
        assert counted[store][0] > 0, store
    for store in ("transforms", "audit_names", "access_lists", "authors", "vectors", "grants"):
        assert counted[store][0] > 0, store
    assert {after for _, after in counted.values()} == {0}
    assert receipt["complete"]
    dump = rows(system)
    left = [row for row in dump for word in (NAME, *CANARIES) for f in forms(word) if f in row]
    assert left == []
    assert findings(tmp_path, NAME, *CANARIES) == [], "with the server running"
    for cube in ids:
        with pytest.raises(NotFound):
            system.vault.get(ADMIN, cube)
    assert system.vault.get(ADMIN, shared).meta.access.readers == ["bob"]
    assert system.vault.get(ADMIN, theirs).meta.author == "erased"
    best = system.search(bob, "harbour", None, 1).found[0]
    assert best.recalled.item.text == "The harbour is blue."
    assert system.index.count_by_cube(Owner(bob.tenant, bob.person)).total() == 1
    assert system.audit.verify(ADMIN) == []


def test_vectors_of_others_are_still_there_after_a_restart(
    system: MemorySystem, eraser: Eraser
) -> None:
    people = [principal(f"person {number}") for number in range(4)]
    for who in people:
        text(system, who, f"The harbour of {who.person} is blue.")
    erase(eraser, people[0].person)
    system.index.close()
    for who in people[1:]:
        owner = Owner(who.tenant, who.person)
        assert system.index.count_by_cube(owner).total() == 1
        (vector,) = system.embedder.embed([f"The harbour of {who.person} is blue."])
        ((_, cosine),) = system.index.query(owner, "turn", vector, 1)
        assert cosine > 0.99
    assert not system.index.count_by_cube(Owner(people[0].tenant, people[0].person))


@BOTH
def test_work_that_began_before_the_erasure_writes_nothing(
    system: MemorySystem, eraser: Eraser, tmp_path: Path
) -> None:
    before = dataclasses.replace(principal(NAME), epoch=system.erasures.serial)
    admin = dataclasses.replace(ADMIN, epoch=system.erasures.serial)
    turn = system.turns.add(before, {"user": "I live in Rome.", "reply": "Nice."})
    begun = system.turns.get(turn)
    owner = system.knowledge.owner(text(system, before))
    assert begun is not None
    assert owner is not None
    erase(eraser)
    late = ExplicitPayload(content=[Item(text=CANARIES[0])])
    rome = said(NAME, "I live in Rome.")
    for who in (before, begun.principal, owner):
        with pytest.raises(Erased):
            system.create(who, [NewCube(payload=late)])
        with pytest.raises(Erased):
            system.turns.add(who, {"user": CANARIES[0], "reply": ""})
        with pytest.raises(Erased):
            system.plans.put(who, "late", {"entries": []})
        with pytest.raises(Erased):
            Consolidator(system).take(who, rome)
    with pytest.raises(Erased):
        system.create(admin, [NewCube(meta=NewMeta(person=NAME), payload=late)])
    assert findings(tmp_path, NAME, CANARIES[0]) == []
    text(system, dataclasses.replace(before, epoch=system.erasures.serial), "Anew.")
    (fresh,) = system.views.page(principal(NAME), CubeFilter())[0]
    with pytest.raises(Erased):
        system.update(before, fresh.id, CubePatch(append=[Item(text=CANARIES[0])]))


@BOTH
def test_writers_at_the_same_moment_are_wholly_before_or_behind(
    system: MemorySystem, eraser: Eraser
) -> None:
    who = dataclasses.replace(principal(NAME), epoch=system.erasures.serial)
    stop, refused = threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            try:
                system.vault.create(who, NewCube(payload=ExplicitPayload(content="Again.")))
            except Erased:
                refused.set()
                return

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    found = eraser.request(ADMIN, NAME)
    assert refused.wait(30)
    stop.set()
    for thread in threads:
        thread.join()
    assert eraser.run_now(found.id)
    receipt = eraser.status(ADMIN, found.id).receipt
    assert receipt is not None
    assert receipt["complete"]
    with system.database.read() as session:
        left = session.scalar(sa.text("SELECT count(*) FROM cubes"))
    assert left == 0


def test_a_returning_person_begins_anew_with_other_salts_and_scopes(
    system: MemorySystem, eraser: Eraser
) -> None:
    who, old = principal(NAME), system.erasures.serial
    first, others = system.scopes.person(who), system.scopes.person(principal("bob"))
    erase(eraser)
    second = system.scopes.person(who)
    assert first != second
    assert system.scopes.person(dataclasses.replace(who, epoch=old)) == first, "of a request before"
    assert system.scopes.person(principal("bob")) == others
    assert system.segments.generation(first) != system.segments.generation(first), "never saved"
    text(system, who, "I am back.")
    erase(eraser)
    assert len({first, second, system.scopes.person(who)}) == 3


def test_an_adapter_of_another_owner_is_queued_again_with_the_erasure(
    system: MemorySystem, eraser: Eraser
) -> None:
    """Its training is on the disk with the first transaction, before the erasure's own job runs."""
    zoe, bob = principal(NAME), principal("bob")
    gone, kept = text(system, zoe), text(system, bob, "The sea is red.")
    job = submit.distill(system, bob, kept, Distill(name="lora"))
    made = adapter(system, bob, [kept], name="lora")
    system.transforms.claim()
    system.transforms.end(job.id, JobState.DONE, {}, made)
    version = system.vault.get(zoe, gone).meta.version
    with system.database.write() as session:  # no rule of today permits it
        session.add(DerivedRow(cube_id=made, source_id=gone, version=version))
    eraser.request(ADMIN, NAME)
    with pytest.raises(NotFound):
        system.vault.get(bob, made)
    (again,) = [each for each in system.transforms.page(ADMIN) if each.id != job.id]
    assert (again.sources, again.state) == ((kept,), JobState.QUEUED)
    assert again.request["name"] == "lora"
    assert again.principal.person == "", "the tenant's, not the erased person's"


def test_conditions_of_access_do_not_keep_the_names_of_erased_people(
    system: MemorySystem, eraser: Eraser
) -> None:
    for who in (principal(NAME), principal("bob")):
        text(system, who)
        assert records._visible_to(records._subject(who), ()) is records.visible_to(who)
    before = records.visible_to(principal(NAME))
    erase(eraser)
    assert records.visible_to(principal(NAME)) is not before


@BOTH
def test_a_replica_learns_of_an_erasure(system: MemorySystem, eraser: Eraser) -> None:
    replica = MemorySystem(system.config)
    replica.open()
    try:
        who = principal(NAME)
        text(system, who, "The harbour is blue.")
        assert replica.operator._lexical.get(Owner(who.tenant, who.person), 0).items
        before = replica.scopes.person(who)
        erase(eraser)  # waits until it has
        assert replica.scopes.person(who) != before
        assert replica.erasures.serial == system.erasures.serial
        assert Owner(who.tenant, who.person) not in replica.operator._lexical._indexes
    finally:
        replica.close()


def test_frozen_cubes_are_a_conflict_or_kept_and_listed(
    system: MemorySystem, eraser: Eraser
) -> None:
    who = principal(NAME)
    held, gone = text(system, who, "Evidence."), text(system, who, "Other.")
    freeze(system, held, NAME)
    with pytest.raises(Conflict, match="legal hold"):
        eraser.request(ADMIN, NAME)
    assert system.vault.get(who, gone).meta.id == gone, "nothing was erased"
    receipt = erase(eraser, keep_frozen=True)
    assert receipt["held"] == [held]
    assert not receipt["complete"]
    assert system.vault.get(who, held).items[0].text == "Evidence."
    with pytest.raises(NotFound):
        system.vault.get(who, gone)
    public = system.database.audit_keys.current.public
    assert "not complete" in " ".join(receipts.problems(receipt, public=public))


def test_an_interrupted_erasure_is_finished_by_the_next_worker(
    system: MemorySystem, eraser: Eraser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(system, principal(NAME))
    found = eraser.request(ADMIN, NAME)
    steps = (
        (type(system.index), "drop_cube"),
        (type(system.segments), "close_scope"),
        (type(system.index), "compact"),
        (type(system.payloads), "count"),
    )
    for owner, name in steps:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, _raise)
            with pytest.raises(IndexUnavailable):
                eraser.run(found.id)
    eraser.run(found.id)
    eraser.run(found.id)  # behind a kill between the receipt and the end of the job
    receipt = eraser.status(ADMIN, found.id).receipt
    assert receipt is not None
    assert receipt["complete"]
    assert {each["store"]: each["before"] for each in receipt["stores"]}["vectors"] > 0
    assert findings(tmp_path, NAME, *CANARIES) == []


def _raise(*_: object, **__: object) -> None:
    raise IndexUnavailable("killed here")


def test_deleting_a_cube_removes_its_name_from_plans_and_the_key_of_its_request(
    system: MemorySystem,
) -> None:
    who = principal("ann")
    meta, again = NewMeta(name=CANARIES[0]), IdempotencyKey("k", "0" * 64)
    (made,) = system.create(who, [NewCube(meta=meta, payload=ExplicitPayload(content="A."))], again)
    (kept,) = system.create(
        who, [NewCube(meta=NewMeta(name="kept"), payload=ExplicitPayload(content="B."))]
    )
    entries = [
        {"cube": cube.meta.id, "version": cube.meta.version, "name": cube.meta.name}
        for cube in (made, kept)
    ]
    system.plans.put(who, "r-1", {"entries": entries})
    system.delete(who, made.meta.id)
    assert [each["name"] for each in system.plans.get(who, "r-1")["entries"]] == [None, "kept"]
    dump = rows(system)
    assert [row for row in dump for form in forms(CANARIES[0]) if form in row] == []
    fresh = system.create(who, [NewCube(payload=ExplicitPayload(content="A."))], again)
    assert fresh[0].meta.id != made.meta.id


def test_a_repeated_request_joins_the_one_that_runs(eraser: Eraser, system: MemorySystem) -> None:
    text(system, principal(NAME))
    first = eraser.request(ADMIN, NAME)
    assert eraser.request(ADMIN, NAME).id == first.id
    system.turns.add(principal(NAME), {"user": "Hi.", "reply": ""})
    assert (second := eraser.request(ADMIN, NAME).id) != first.id, "there is a new turn"
    assert eraser.request(ADMIN, NAME).id == second
    text(system, principal(NAME), "New since.")
    assert eraser.request(ADMIN, NAME).id != first.id


def test_persons_who_are_erased_at_once_share_one_compaction(
    system: MemorySystem, eraser: Eraser
) -> None:
    for name in ("one", "two", "three"):
        text(system, principal(name), f"The word of {name} is xyzzy.")
    queued = [eraser.request(ADMIN, name).id for name in ("one", "two")]
    assert eraser.run_now(queued[0])
    first = system.database.compacted_us
    assert first
    assert eraser.run_now(queued[1])
    assert system.database.compacted_us == first
    assert findings(system.config.root, "The word of two") == []
    assert erase(eraser, "three")["complete"]
    assert system.database.compacted_us > first


def test_a_cube_made_by_others_from_the_person_s_goes_with_it(
    system: MemorySystem, eraser: Eraser
) -> None:
    who = principal(NAME)
    mine = text(system, who)
    made = adapter(system, who, [mine])
    of_that = text(system, who, "Words.", provenance=Provenance(parents=[made]))
    receipt = erase(eraser)
    assert receipt["complete"]
    for cube in (mine, made, of_that):
        assert system.payloads.count(who.tenant, CubeId(cube)) == 0
    assert PersonId(NAME) not in {owner.person for owner in system.index_state.owners()}
