"""A person with something of everything, and the search for what is left of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    Provenance,
)
from memos_vllm.erasure import eraser as eraser_module
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.system import MemorySystem
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.tables import Base
from tests.conftest import principal
from tests.unit.test_transforms import adapter

ADMIN = principal("", role=Role.ADMIN)
NAME = "Zoë Kanarienvogel-9f3"
CANARIES = (
    "ochre xylophone 7741",
    "фиолетовый дирижабль 7741",
    "琥珀色のペンギン7741",
    "جمل بنفسجي 7741",
)


@pytest.fixture(autouse=True)
def _no_other_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process has to learn of the erasure, but in a test with a replica."""
    if "replica" not in request.node.name:
        monkeypatch.setattr(eraser_module, "LEARNT_SECONDS", 0.0)


@pytest.fixture
def eraser(system: MemorySystem) -> Eraser:
    return Eraser(system)


def erase(eraser: Eraser, person: str = NAME, **asked: bool) -> dict[str, object]:
    found = eraser.request(ADMIN, person, **asked)
    assert eraser.run_now(found.id)
    receipt = eraser.status(ADMIN, found.id).receipt
    assert receipt is not None
    return dict(receipt)


def fill(system: MemorySystem, who: Principal) -> list[str]:
    """One of everything that the vault has of a person; ids of the cubes."""
    texts = [Item(text=f"{canary} said {who.person}", speaker=who.person) for canary in CANARIES]
    origin = Provenance(origin="chat", session=CANARIES[0], note=CANARIES[1])
    meta = NewMeta(name=f"chat-{CANARIES[0]}", tags=[CANARIES[0]], provenance=origin)
    again = IdempotencyKey(CANARIES[0], "0" * 64)
    (made,) = system.create(
        who, [NewCube(meta=meta, payload=ExplicitPayload(content=texts))], again
    )
    patch = CubePatch(append=[Item(text=f"I live in {CANARIES[0]}.", speaker=who.person)])
    system.update(who, made.meta.id, patch)
    claims = said(who.person, "My cat is called Miso.")
    Consolidator(system).take(who, claims)
    group = system.groups.create(ADMIN, f"friends of {who.person[:2]}")
    system.groups.add(ADMIN, group.id, who.person)
    learnt = adapter(system, who, [made.meta.id], name=f"lora {CANARIES[0]}")
    system.turns.add(who, {"user": CANARIES[1], "reply": CANARIES[2]})
    entry = {"cube": made.meta.id, "version": made.meta.version, "name": meta.name}
    system.plans.put(who, "r-1", {"entries": [{**entry, "decision": "used"}]})
    system.transforms.add(who, "decode", [learnt], {"topics": [CANARIES[3]]})
    assert system.search(who, CANARIES[0], None, 3).found
    return [made.meta.id, learnt]


def said(person: str, words: str) -> list[Item]:
    claims = read_claims([Item(type=ItemType.EPISODE, text=words, speaker=person)], person)
    assert claims
    return list(claims)


def forms(text: str) -> list[bytes]:
    escaped = json.dumps(text)[1:-1]
    return [
        text.encode(),
        text.encode("utf-16-le"),
        text.encode("utf-16-be"),
        escaped.encode(),
        escaped.upper().encode(),
    ]


def findings(folder: Path, *texts: str) -> list[tuple[Path, str]]:
    """Files that hold one of the texts."""
    wanted = [(text, form) for text in texts for form in forms(text)]
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [(path, text) for text, form in wanted if form in data]
    return found


def rows(system: MemorySystem) -> list[bytes]:
    """Every row of every table, as a dump shows it."""
    with system.database.engine.connect() as connection:
        return [
            json.dumps([table.name, *map(str, row)], ensure_ascii=False).encode()
            for table in Base.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        ]
