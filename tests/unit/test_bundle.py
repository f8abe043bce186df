"""Bundles: export and import of a vault's cubes, and refusal of damaged files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memos_vllm.config.tree import Config
from memos_vllm.cube.model import (
    Access,
    CubePatch,
    ExplicitPayload,
    Item,
    MemCube,
    NewCube,
    NewMeta,
    Placement,
    State,
)
from memos_vllm.errors import BadRequest, Conflict
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.importers.bundle import ORIGIN, bundle_source, export_bundle
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.write import run_import
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import CubeFilter
from tests.conftest import principal

HOME = principal("", "acme", Role.ADMIN)
AWAY = principal("", "other", Role.ADMIN)


@pytest.fixture(autouse=True)
def _server(config: Config) -> Iterator[None]:
    index = VectorIndex(config)
    assert index.claim()
    yield
    index.close()


@pytest.fixture
def bundle(tmp_path: Path, system: MemorySystem) -> Path:
    named = NewMeta(
        name="rules",
        placement=Placement.STABLE,
        priority=7,
        tags=["a", "b"],
        access=Access(readers=["ann"], writers="tenant"),
        expires=datetime(2100, 1, 1, tzinfo=UTC),
    )
    stored = [
        NewCube(meta=named, payload=ExplicitPayload(content=[_item("be kind"), _item("be kind")])),
        NewCube(
            meta=NewMeta(person="ann", name="x"), payload=ExplicitPayload(content=[_item("hers")])
        ),
        NewCube(
            meta=NewMeta(person="bob", name="x"), payload=ExplicitPayload(content=[_item("his")])
        ),
        NewCube(meta=NewMeta(person="bob"), payload=ExplicitPayload(content=[_item("nameless")])),
        NewCube(meta=NewMeta(name="old"), payload=ExplicitPayload(content=[_item("stale")])),
        NewCube(meta=NewMeta(name="ice"), payload=ExplicitPayload(content=[_item("fixed")])),
    ]
    system.create(HOME, stored)
    system.update(HOME, "old", CubePatch(state=State.ARCHIVED))
    system.update(HOME, "ice", CubePatch(state=State.FROZEN, reason="case 7"))
    path = tmp_path / "bundle.jsonl"
    assert export_bundle(system, HOME, path) == 6
    return path


def _item(text: str) -> Item:
    return Item(
        text=text, speaker="Ann", time=datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC), source="s"
    )


def _import(
    system: MemorySystem, path: Path, home: Path, who: Principal = AWAY, person: str | None = None
) -> ImportPosition:
    position = ImportPosition.load(
        home / "imports", path, content_sha256(path), {"tenant": who.tenant, "person": person}
    )
    position.restart()
    run_import(system, who, bundle_source(path, person), position)
    return position


def _all(system: MemorySystem, who: Principal) -> list[MemCube]:
    headers, _ = system.views.page(who, CubeFilter(), None, 100)
    return [system.vault.get(who, header.id) for header in headers][::-1]


def _content(cube: MemCube) -> list[dict[str, object]]:
    assert isinstance(cube.payload.content, list)
    return [item.model_dump(exclude={"id"}) for item in cube.payload.content]


def test_export_then_import_restores_everything_under_new_ids(
    tmp_path: Path, system: MemorySystem, bundle: Path
) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert _import(system, bundle, tmp_path).created == 6
    for old, new in zip(_all(system, HOME), _all(system, AWAY), strict=True):
        assert new.meta.id != old.meta.id
        for field in (
            "person",
            "name",
            "placement",
            "priority",
            "tags",
            "access",
            "state",
            "expires",
        ):
            assert getattr(new.meta, field) == getattr(old.meta, field), field
        assert _content(new) == _content(old)
        assert new.meta.provenance.origin == ORIGIN
        assert new.meta.provenance.parents == [old.meta.id]


def test_second_import_of_a_bundle_adds_nothing_not_even_nameless_cubes(
    tmp_path: Path, system: MemorySystem, bundle: Path
) -> None:
    _import(system, bundle, tmp_path)
    again = _import(system, bundle, tmp_path)
    assert (again.created, again.extended, again.skipped) == (0, 0, 6)
    assert len(_all(system, AWAY)) == 6


def test_import_for_one_person_keeps_cubes_of_one_name_apart(
    tmp_path: Path, system: MemorySystem, bundle: Path
) -> None:
    assert _import(system, bundle, tmp_path, person="zoe").created == 6
    cubes = _all(system, AWAY)
    assert {cube.meta.person for cube in cubes} == {"zoe"}
    assert [cube.meta.name for cube in cubes] == ["rules", "x", "x (bob)", None, "old", "ice"]


def test_export_of_one_person_leaves_the_others_out(
    tmp_path: Path, system: MemorySystem, bundle: Path
) -> None:
    path = tmp_path / "bob.jsonl"
    assert export_bundle(system, HOME, path, person="bob") == 2
    header, *cubes = [json.loads(line) for line in path.read_text().splitlines()]
    assert (header["format"], header["version"], header["cubes"]) == ("memos-cubes", 1, 2)
    assert {cube["meta"]["person"] for cube in cubes} == {"bob"}


def test_export_replaces_a_file_only_when_told_to(system: MemorySystem, bundle: Path) -> None:
    with pytest.raises(Conflict, match="--force"):
        export_bundle(system, HOME, bundle)
    assert export_bundle(system, HOME, bundle, replace=True) == 6
    assert [path.name for path in bundle.parent.glob(".*")] == []


def test_export_into_a_missing_folder_is_a_bad_request(
    tmp_path: Path, system: MemorySystem
) -> None:
    with pytest.raises(BadRequest, match="cannot write"):
        export_bundle(system, HOME, tmp_path / "absent" / "b.jsonl")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"memos-cubes"', '"zip"', ":1: no header of a bundle"),
        ('"version": 1,', '"version": 2,', ":1: bundle version 2.*upgrade"),
        ('"cubes": 6', '"cubes": 7', "announces 7 cubes and the file has 6"),
        ('"kind": "explicit"', '"kind": "odd"', ":2: no cube: `meta.kind`"),
        ('"name": "rules"', '"name": "a/b"', ":2: no cube: `name`"),
    ],
)
def test_an_incomplete_bundle_is_refused_before_the_import(
    bundle: Path, old: str, new: str, said: str
) -> None:
    text = bundle.read_text()
    assert old in text
    bundle.write_text(text.replace(old, new, 1))
    with pytest.raises(BadRequest, match=said):
        bundle_source(bundle)


def test_empty_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("")
    with pytest.raises(BadRequest, match="no header"):
        bundle_source(tmp_path / "e")
