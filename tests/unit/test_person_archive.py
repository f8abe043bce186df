"""A whole person from server to server: with another embedder and database, twice, and interrupted."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    Access,
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    ParametricPayload,
    Placement,
    State,
)
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import BadRequest, Conflict, Forbidden, QuotaExceeded
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.importers.person.export import PersonExport, export_person
from memos_vllm.importers.person.restore import Outcome, PersonImport
from memos_vllm.learning import lifecycle
from memos_vllm.learning.remember import Rememberer
from memos_vllm.parametric.attached import AttachedEngine
from memos_vllm.plaintext.reader.forgetting import read_orders
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.system import MemorySystem
from memos_vllm.vault.grants import Subject
from memos_vllm.vault.served_model import ServedModels
from tests.adapters import small
from tests.conftest import FakeQueue, make_config, principal

ALICE = dataclasses.replace(principal("alice"), session="monday")
ADMIN = principal("alice", role=Role.ADMIN)
DAY = datetime(2026, 3, 1, tzinfo=UTC)
Systems = Callable[..., MemorySystem]


@pytest.fixture
def systems(tmp_path: Path, postgres_url: Callable[[], str]) -> Iterator[Systems]:
    """Servers with a database of their own each."""
    opened: list[MemorySystem] = []

    def make(name: str, database: str = "sqlite", **more: Any) -> MemorySystem:
        extra = {"database": {"url": postgres_url()}} if database == "postgres" else {}
        made = MemorySystem(make_config(tmp_path / name, **extra, **more)).open()
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()


def say(system: MemorySystem, text: str, who: Principal = ALICE, reply: str = "I see.") -> None:
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    moment = now_us()
    body = turn_body(
        [{"role": "user", "content": text}], reply, model="m", request_id=f"r{moment}", at_us=moment
    )
    assert body is not None
    rememberer.remember(rememberer.accept(who, {**body, "timezone": "Europe/Berlin"}))


def keep(system: MemorySystem, *texts: str, who: Principal = ALICE, **meta: Any) -> str:
    items = [
        Item(text=text, speaker="alice", time=DAY, source=f"s{n}") for n, text in enumerate(texts)
    ]
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=items))
    return system.create(who, [new])[0].meta.id


def lived_in(system: MemorySystem) -> None:
    """A person with everything that a person can have."""
    say(system, "My cat is called Miso. I live in Paris.")
    say(system, "I moved to Berlin yesterday.")
    say(system, "Ich bin allergisch gegen Erdnüsse.", dataclasses.replace(ALICE, persona="work"))
    old = keep(system, "I hiked.", name="old")
    document = keep(system, "Kapitel 1: Käse", "第二章：茶", name="handbook", tags=["document"])
    system.update(ALICE, document, CubePatch(append=[Item(text="Chapter 3: bread")]))
    first = system.vault.history(ALICE, document)[-1].id
    system.rollback(ALICE, document, first)
    keep(system, "I swam.", name="new")
    lifecycle.merge(system, ALICE, old, "new")  # the parent is older than the child here …
    late = keep(system, "I ran.", name="late")
    lifecycle.merge(system, ALICE, late, "new")  # … and younger here
    held = keep(
        system, "the contract", name="held", expires=datetime(2100, 1, 1, tzinfo=UTC), priority=7
    )
    system.update(ADMIN, held, CubePatch(state=State.FROZEN, reason="case 7"))
    keep(system, "shared notes", name="notes", access=Access(readers=["bob"], writers="tenant"))
    system.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    grant = system.grants.put
    read = [Permission.READ, Permission.USE]
    grant(ALICE, "notes", Subject(SubjectKind.PERSON, "bob"), Effect.ALLOW, read)
    grant(ALICE, "notes", Subject(SubjectKind.GROUP, "team"), Effect.DENY, read)
    gone = keep(system, "a whim", name="gone")
    system.update(ALICE, gone, CubePatch(state=State.ARCHIVED))
    ended = Claim(
        subject="alice",
        attribute="employer",
        value="Acme",
        begins=DAY,
        ends=DAY.replace(month=4),
        sources=["m1", "m2"],
        seen=2,
        superseded_by="m3",
    )
    item = Item(type=ItemType.FACT, text="alice works at Acme", time=DAY, source="m1", claim=ended)
    system.create(
        ALICE, [NewCube(meta=NewMeta(name="job"), payload=ExplicitPayload(content=[item]))]
    )
    adapter = ParametricPayload(type="parametric", content=small())
    system.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    waiting = turn_body(
        [{"role": "user", "content": "I bought a bike."}],
        "",
        model="m",
        request_id="w",
        at_us=now_us(),
    )
    assert waiting is not None
    system.turns.add(ALICE, {**waiting, "timezone": "Asia/Tokyo", "forgot": False})


def exported(system: MemorySystem, path: Path, who: Principal = ADMIN) -> list[dict[str, Any]]:
    """The archive's records, without what names the moment of the export."""
    export_person(system, who, path, replace=True)
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    del records[0]["exported"], records[-1]["sha256"]
    return records


def imported(
    system: MemorySystem, path: Path, who: Principal = ADMIN, person: str | None = None
) -> Outcome:
    return PersonImport(system, dataclasses.replace(who, person=""), path, person).run()


@pytest.mark.parametrize(("here", "there"), [("sqlite", "postgres"), ("postgres", "sqlite")])
def test_a_person_exported_imported_and_exported_again_is_the_same(
    systems: Systems, tmp_path: Path, here: str, there: str
) -> None:
    old, new = systems("old", here), systems("new", there)
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600
    outcome = imported(new, tmp_path / "a.jsonl")
    assert (outcome.skipped.tree(), outcome.renamed) == ([], {})
    assert outcome.created == before[-1]["cubes"] >= 12
    assert outcome.turns == 1
    assert exported(new, tmp_path / "b.jsonl") == before
    assert new.audit.verify(dataclasses.replace(ADMIN, person="")) == []


def test_the_imported_person_is_found_frozen_shared_and_reads_the_past(
    systems: Systems, tmp_path: Path
) -> None:
    # Another embedder: texts are embedded in another form, and by it alone.
    old, new = systems("old"), systems("new", embedder={"passage_prefix": "passage: "})
    lived_in(old)
    moment = now_us()
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl")
    found = new.search(ALICE, "cat Miso", None, 5).found
    assert any("Miso" in each.recalled.item.text for each in found)
    assert new.vault.get(ALICE, "held").meta.state is State.FROZEN
    with pytest.raises(Exception, match="hold"):
        new.delete(ALICE, "held")
    assert new.vault.get(principal("bob"), new.vault.get(ALICE, "notes").meta.id)
    claims = {each.item.text for each in new.knowledge.claims(ALICE)}
    assert claims == {each.item.text for each in old.knowledge.claims(ALICE)}
    assert [v.sequence for v in new.vault.history(ALICE, "handbook")] == [3, 2, 1]
    assert len(new.past.get(ALICE, "handbook", moment).items) == 2
    # What the person says next is consolidated with what came along.
    say(new, "My cat is called Tofu.")
    current = {c.item.claim.value for c in new.knowledge.claims(ALICE) if c.item.claim}
    assert "Tofu" in current


def test_a_second_import_changes_nothing_also_where_memory_went_on(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl")
    new.update(ALICE, "handbook", CubePatch(append=[Item(text="more")]))
    say(new, "I have a dog.")
    before = exported(new, tmp_path / "b.jsonl")
    again = imported(new, tmp_path / "a.jsonl")
    assert (again.created, again.turns) == (0, 0)
    assert again.held > 10
    assert exported(new, tmp_path / "c.jsonl") == before
    # The archive of the copy, back on the first server: each cube is known there.
    back = imported(old, tmp_path / "b.jsonl")
    assert back.created == before[-1]["cubes"] - again.held


def test_an_import_that_is_killed_goes_on_where_it_stopped(
    systems: Systems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = systems("old"), systems("new", "postgres")
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    put, count = new.payloads.put, 0

    def dies(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 9:  # between two versions of a cube
            raise KeyboardInterrupt
        return put(*args)

    monkeypatch.setattr(new.payloads, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        imported(new, tmp_path / "a.jsonl")
    monkeypatch.undo()
    outcome = imported(new, tmp_path / "a.jsonl")
    assert outcome.held > 0
    assert outcome.created > 0
    assert exported(new, tmp_path / "b.jsonl") == before


def test_another_tenants_person_and_other_people_stay_as_they_are(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    stranger, bob = principal("alice", "other"), principal("bob")
    keep(new, "hers", who=stranger, name="held")
    keep(new, "his", who=bob, name="held")
    admin_of_other = principal("alice", "other", Role.ADMIN)
    theirs = exported(new, tmp_path / "t.jsonl", admin_of_other)
    his = exported(new, tmp_path / "h.jsonl", principal("bob", role=Role.ADMIN))
    imported(new, tmp_path / "a.jsonl")
    assert exported(new, tmp_path / "t2.jsonl", admin_of_other) == theirs
    assert exported(new, tmp_path / "h2.jsonl", principal("bob", role=Role.ADMIN)) == his
    # The same file in the other tenant is that tenant's person, with cubes of its own.
    assert imported(new, tmp_path / "a.jsonl", admin_of_other).created > 10
    assert new.vault.get(stranger, "held").items[0].text == "hers"


def test_names_that_are_taken_give_way_and_a_second_profile_becomes_facts(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    say(new, "I am vegan. My name is Alice.")
    keep(new, "mine", name="handbook")
    outcome = imported(new, tmp_path / "a.jsonl")
    assert outcome.renamed["handbook"] == "handbook (imported)"
    assert outcome.renamed["profile"].startswith("facts#")
    assert outcome.renamed["chat-monday#1"] == "chat-monday#2"
    facts = new.vault.get(ALICE, outcome.renamed["profile"]).meta
    assert (facts.placement, facts.tags) == (Placement.RETRIEVED, ["facts"])


def test_for_another_person_and_with_what_the_tenant_redacts(
    systems: Systems, tmp_path: Path
) -> None:
    old = systems("old", remember={"secrets": "keep"})
    new = systems("new")
    keep(old, "My password is hunter22.", name="p")
    exported(old, tmp_path / "a.jsonl")
    assert "hunter22" in (tmp_path / "a.jsonl").read_text()
    say(old, "My cat is called Miso.")
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl", person="zoe")
    zoe = dataclasses.replace(principal("zoe"), session="monday")
    (claim,) = (each.item for each in new.knowledge.claims(zoe))
    assert (claim.speaker, claim.claim and claim.claim.subject) == ("zoe", "zoe")
    say(new, "My cat is called Tofu now.", zoe)
    assert (
        len([c for c in new.knowledge.claims(zoe) if c.item.claim and not c.item.claim.ends]) == 1
    )
    assert new.vault.history(zoe, "p")[0].author == "zoe"
    cube = new.vault.get(zoe, "p")
    assert "hunter22" not in cube.model_dump_json()
    stored = [path.read_bytes() for path in Path(new.config.payload_url).rglob("*.json")]
    assert stored
    assert all(b"hunter22" not in each for each in stored)


def test_what_was_forgotten_is_in_no_archive(systems: Systems, tmp_path: Path) -> None:
    old = systems("old")
    say(old, "My cat is called Miso. I like tea.")
    rememberer = Rememberer(old, FakeQueue(old.jobs, old.config.jobs))
    orders = read_orders("Forget that my cat is called Miso.")
    assert orders is not None
    assert rememberer.forget(ALICE, orders.orders).count
    records = exported(old, tmp_path / "a.jsonl")
    assert "Miso" not in (tmp_path / "a.jsonl").read_text()
    (left,) = records[-1]["left_out"]
    assert left["what"] == "version"
    assert left["count"] >= 1
    assert "forgotten" in left["reason"]


def test_an_adapter_for_another_base_model_is_left_out_counted_and_named(
    systems: Systems, tmp_path: Path
) -> None:
    old, same, other, unknown = (systems(name) for name in ("old", "same", "other", "unknown"))
    adapter = ParametricPayload(type="parametric", content=small())
    served = SimpleNamespace(fingerprint="base-1", max_rank=8, check=lambda adapter: None)
    old.attach_engine(AttachedEngine(served))
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")
    ServedModels(same.database).note("base-1")
    ServedModels(other.database).note("base-2")
    assert imported(same, tmp_path / "a.jsonl").created == 2
    assert same.vault.get(ALICE, "voice").meta.model_fingerprint == "base-1"
    assert imported(unknown, tmp_path / "a.jsonl").created == 2
    outcome = imported(other, tmp_path / "a.jsonl")
    (left,) = outcome.skipped.groups()
    assert (left.what, left.count, left.names) == ("adapter", 1, ["voice"])
    assert "another base model" in left.reason
    assert outcome.created == 1
    assert old.vault.file(ALICE, "voice") == same.vault.file(ALICE, "voice")


def test_only_an_admin_exports_and_imports(systems: Systems, tmp_path: Path) -> None:
    old = systems("old")
    keep(old, "I like tea.")
    exported(old, tmp_path / "a.jsonl")
    for role in (Role.READER, Role.WRITER):
        with pytest.raises(Forbidden):
            PersonExport(old, principal("alice", role=role))
        with pytest.raises(Forbidden):
            PersonImport(old, principal("alice", role=role), tmp_path / "a.jsonl")
    with pytest.raises(Conflict, match="--force"):
        export_person(old, ADMIN, tmp_path / "a.jsonl")


def damaged(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """A copy of an archive with changed records and a checksum that fits them."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    change(records)
    lines = [(json.dumps(each, ensure_ascii=False) + "\n").encode() for each in records[:-1]]
    records[-1]["sha256"] = hashlib.sha256(b"".join(lines)).hexdigest()
    records[-1]["cubes"] = sum(each.get("record") == "cube" for each in records)
    made = path.with_name("damaged.jsonl")
    made.write_bytes(b"".join(lines) + json.dumps(records[-1]).encode())
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], "truncated"),
        (lambda text: text.replace("I like tea.", "I like rum."), "not as it was written"),
        (lambda text: text.replace('"version": 1', '"version": 2', 1), "archive version 2"),
        (lambda text: text + "{}\n", "behind the end"),
        (lambda text: '{"format": "memos-cubes"}\n', "no archive of a person"),
        (lambda text: "", "no archive of a person"),
        (lambda text: "[1]\n", "no record"),
        (lambda text: "PK", "not valid JSON"),
    ],
)
def test_a_bad_file_is_refused_as_a_whole_with_what_to_do(
    systems: Systems, tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    old, new = systems("old"), systems("new")
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(change((tmp_path / "a.jsonl").read_text()))
    with pytest.raises(BadRequest, match=said):
        imported(new, bad)
    assert exported(new, tmp_path / "n.jsonl")[-1]["cubes"] == 0


def test_one_bad_cube_stops_no_other_and_is_named(systems: Systems, tmp_path: Path) -> None:
    old, new = systems("old"), systems("new")
    for number in range(4):
        keep(old, f"I like tea {number}.", name=f"c{number}")
    adapter = ParametricPayload(type="parametric", content=small())
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    exported(old, tmp_path / "a.jsonl")

    def change(records: list[dict[str, Any]]) -> None:
        cubes = {each["name"]: each for each in records if each.get("record") == "cube"}
        cubes["c0"]["state"] = "haunted"
        cubes["c1"]["id"] = "../../etc"
        versions = [each for each in records if each.get("record") == "versions"]
        versions[2]["versions"][0]["runs"] = [[0, 99]]
        file = next(each for each in records if each.get("record") == "file")
        file["data"] = base64.b64encode(b"other bytes").decode()

    outcome = imported(new, damaged(tmp_path / "a.jsonl", change))
    assert outcome.created == 1
    names = {name for group in outcome.skipped.groups() for name in group.names}
    assert names == {"c0", "c1", "c2", "voice"}
    assert all(group.reason for group in outcome.skipped.groups())


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0[[]]trailing"]
)
def test_a_hostile_adapter_is_left_out_and_costs_itself(
    systems: Systems, tmp_path: Path, data: bytes
) -> None:
    old, new = systems("old"), systems("new")
    adapter = ParametricPayload(type="parametric", content=small())
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")

    def change(records: list[dict[str, Any]]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        for each in records:
            if each.get("record") == "file":
                each.update(sha256=digest, data=base64.b64encode(data).decode())
            if each.get("record") == "versions" and each["versions"][0].get("file"):
                each["versions"][0]["file"] = digest

    outcome = imported(new, damaged(tmp_path / "a.jsonl", change))
    assert [(g.what, g.names) for g in outcome.skipped.groups()] == [("adapter", ["voice"])]
    assert outcome.created == 1


def test_times_of_the_future_are_now_and_an_erased_person_returns_whole(
    systems: Systems, tmp_path: Path
) -> None:
    system = systems("one")
    keep(system, "I like tea.", name="tea")
    exported(system, tmp_path / "a.jsonl")

    def late(records: list[dict[str, Any]]) -> None:
        records[1]["updated"] = records[1]["created"] = "2999-01-01T00:00:00Z"
        records[3]["versions"][0]["created"] = "2999-01-01T00:00:00Z"

    file = damaged(tmp_path / "a.jsonl", late)
    system.delete(ALICE, "tea")
    imported(system, file)
    assert system.vault.get(ALICE, "tea").meta.updated <= to_datetime(now_us())
    assert Eraser(system).request(ADMIN, "alice").id
    imported(system, file)
    assert system.vault.get(ALICE, "tea").items[0].text == "I like tea."


def test_a_full_quota_stops_the_import_and_the_next_run_goes_on(
    systems: Systems, tmp_path: Path
) -> None:
    old = systems("old")
    new = systems("new", governance={"limits": {"person_cubes": 2}})
    for number in range(4):
        keep(old, f"I like tea {number}.", name=f"c{number}")
    exported(old, tmp_path / "a.jsonl")
    with pytest.raises(QuotaExceeded):
        imported(new, tmp_path / "a.jsonl")
    assert exported(new, tmp_path / "n.jsonl")[-1]["cubes"] == 2


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_imports_at_once_make_each_cube_once(
    systems: Systems, tmp_path: Path, database: str
) -> None:
    old, new = systems("old"), systems("new", database)
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda _: imported(new, tmp_path / "a.jsonl"), range(3)))
    assert sum(each.created for each in made) == before[-1]["cubes"]
    assert all(each.skipped.tree() == [] for each in made)
    assert exported(new, tmp_path / "b.jsonl") == before
