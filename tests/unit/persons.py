"""People with everything that a person can have, for tests of migration."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.cube.ids import now_us
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
    State,
)
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.importers.person.export import export_person
from memos_vllm.importers.person.restore import Outcome, PersonImport
from memos_vllm.learning import lifecycle
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.system import MemorySystem
from memos_vllm.vault.grants import Subject
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
