"""Property: a person of any cubes and histories is the same after an export and an import."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_vllm.cube.model import (
    Access,
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    Mark,
    NewCube,
    NewMeta,
    Placement,
    Provenance,
    Standing,
    State,
)
from memos_vllm.errors import Conflict, MemosError
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.unit.persons import exported, imported

ALICE = principal("alice")
ADMIN = principal("alice", role=Role.ADMIN)

WORDS = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), min_size=1, max_size=40
)
LABELS = st.none() | WORDS
MOMENTS = st.datetimes(datetime(2, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))
CLAIMS = st.builds(
    Claim,
    subject=WORDS,
    attribute=LABELS,
    value=LABELS,
    begins=st.none() | MOMENTS,
    ends=st.none() | MOMENTS,
    confidence=st.floats(0, 1),
    sources=st.lists(WORDS, max_size=3),
    seen=st.integers(1, 9),
    last_seen=st.none() | MOMENTS,
    entities=st.lists(WORDS, max_size=2),
    standing=st.none() | st.sampled_from(Standing),
    superseded_by=LABELS,
)
ITEMS = st.builds(
    Item,
    type=st.sampled_from(ItemType),
    text=WORDS,
    speaker=LABELS,
    time=st.none() | MOMENTS,
    session=LABELS,
    source=LABELS,
    claim=st.none() | CLAIMS,
    mark=st.none() | st.sampled_from(Mark),
)
CONTENTS = st.lists(ITEMS, max_size=4)
NAMES = st.none() | st.text(
    st.characters(exclude_characters="/", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20
)
METAS = st.builds(
    NewMeta,
    name=NAMES,
    placement=st.sampled_from(Placement),
    priority=st.integers(-1000, 1000),
    tags=st.lists(WORDS, max_size=3),
    access=st.builds(Access, readers=st.none() | st.lists(st.sampled_from(["bob", "zoë"]))),
    expires=st.none() | st.just(datetime(2200, 1, 1, tzinfo=UTC)),
    provenance=st.builds(Provenance, origin=WORDS, session=LABELS, message_ids=st.lists(WORDS)),
)
CHANGES = st.lists(
    st.one_of(
        st.lists(ITEMS, min_size=1, max_size=2).map(lambda items: CubePatch(append=items)),
        CONTENTS.map(lambda items: CubePatch(payload=ExplicitPayload(content=items))),
        st.sampled_from(State).map(lambda state: CubePatch(state=state, reason="a hold")),
        st.integers(-9, 9).map(lambda number: CubePatch(priority=number)),
        st.just("rollback"),
    ),
    max_size=5,
)
PEOPLE = st.lists(st.tuples(METAS, CONTENTS, CHANGES), max_size=4)


def live(system: MemorySystem, life: list[tuple[NewMeta, list[Item], list[Any]]]) -> None:
    made: list[str] = []
    for meta, content, changes in life:
        origin = meta.provenance.model_copy(update={"parents": made[-2:]})
        meta = meta.model_copy(update={"provenance": origin})
        try:
            new = NewCube(meta=meta, payload=ExplicitPayload(content=content))
            cube = system.vault.create(ALICE, new)
        except Conflict:  # the name is taken
            continue
        made.append(cube.meta.id)
        for change in changes:
            try:
                if change == "rollback":
                    first = system.vault.history(ADMIN, cube.meta.id)[-1].id
                    system.vault.rollback(ADMIN, cube.meta.id, first)
                else:
                    system.vault.update(ADMIN, cube.meta.id, change)
            except MemosError:  # a transition that is not legal
                continue


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(PEOPLE)
def test_any_person_is_the_same_on_the_other_server(
    life: list[tuple[NewMeta, list[Item], list[Any]]],
) -> None:
    home = Path(tempfile.mkdtemp())
    systems = [
        MemorySystem(make_config(home / name, remember={"secrets": "keep"})).open()
        for name in ("old", "new")
    ]
    try:
        round_trip(*systems, home, life)
    finally:
        for system in systems:
            system.close()
        shutil.rmtree(home)


def round_trip(
    old: MemorySystem,
    new: MemorySystem,
    home: Path,
    life: list[tuple[NewMeta, list[Item], list[Any]]],
) -> None:
    for system in (old, new):
        # As beside a running server, which holds the index.
        system.settle = lambda cubes: False  # type: ignore[method-assign]
    live(old, life)
    before = exported(old, home / "a.jsonl")
    assert imported(new, home / "a.jsonl").skipped.tree() == []
    assert exported(new, home / "b.jsonl") == before
    assert imported(new, home / "a.jsonl").created == 0
    assert imported(old, home / "b.jsonl").created == 0
