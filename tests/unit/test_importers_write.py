"""Imports into a real vault: interrupted, repeated, and of files that grew.

Another process holds the index, as beside a running server: the vault and its outbox are tested.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_vllm.config.tree import Config
from memos_vllm.cube.model import CubePatch, State
from memos_vllm.errors import ConfigError
from memos_vllm.governance.principal import Role
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.source import ImportedCube, ImportSource
from memos_vllm.importers.write import BATCH_CUBES, run_import
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import CubeFilter
from tests.conftest import principal
from tests.unit.test_importers import write_lines

ADMIN = principal("", role=Role.ADMIN)


@pytest.fixture(autouse=True)
def _server(config: Config) -> Iterator[None]:
    index = VectorIndex(config)
    assert index.claim()
    yield
    index.close()


def notes(path: Path, count: int) -> Path:
    return write_lines(path, *({"text": f"note {n}", "person": f"p{n % 20}"} for n in range(count)))


def position(tmp_path: Path, file: Path, tenant: str = "acme") -> ImportPosition:
    folder = tmp_path / "imports"
    return ImportPosition.load(folder, file, content_sha256(file), {"tenant": tenant})


def texts(system: MemorySystem) -> list[str]:
    headers, _ = system.views.page(ADMIN, CubeFilter(), None, 1000)
    found = []
    for header in headers:
        content = system.vault.get(ADMIN, header.id).payload.content
        assert isinstance(content, list)
        found += [item.text for item in content]
    return sorted(found)


def cut_off(source: ImportSource, after: int) -> ImportSource:
    def cubes() -> Iterator[ImportedCube]:
        for number, cube in enumerate(source.cubes()):
            if number == after:
                raise KeyboardInterrupt
            yield cube

    return dataclasses.replace(source, cubes=cubes)


def test_interrupted_import_continues_without_duplicates(
    tmp_path: Path, system: MemorySystem
) -> None:
    file = notes(tmp_path / "n.jsonl", 40)
    source = jsonl_source(file, None, 2)
    assert source.total == 20
    with pytest.raises(KeyboardInterrupt):
        run_import(system, ADMIN, cut_off(source, BATCH_CUBES + 3), position(tmp_path, file))
    again = position(tmp_path, file)
    assert (again.done, again.created, again.finished) == (BATCH_CUBES, BATCH_CUBES, False)
    seen: list[int] = []
    run_import(system, ADMIN, source, again, seen.append)
    assert seen == [16, 20]
    assert position(tmp_path, file).finished
    assert texts(system) == sorted(f"note {n}" for n in range(40))
    assert system.outbox.size() == 40


def test_batch_stored_but_not_counted_is_not_stored_twice(
    tmp_path: Path, system: MemorySystem
) -> None:
    file = notes(tmp_path / "n.jsonl", 10)
    source = jsonl_source(file, None, 2)
    run_import(system, ADMIN, source, position(tmp_path, file))
    lost = position(tmp_path, file)
    lost.restart()  # as after a kill between the vault's commit and the position's
    run_import(system, ADMIN, source, lost)
    assert (lost.created, lost.extended, lost.skipped) == (0, 0, source.total)
    assert len(texts(system)) == 10


def test_file_that_grew_adds_only_what_is_new(tmp_path: Path, system: MemorySystem) -> None:
    file = write_lines(tmp_path / "n.jsonl", *({"text": f"{n}"} for n in range(3)))
    run_import(system, ADMIN, jsonl_source(file, None, 4), position(tmp_path, file))
    write_lines(file, *({"text": f"{n}"} for n in range(6)))
    grown = position(tmp_path, file)
    assert grown.done == 0
    run_import(system, ADMIN, jsonl_source(file, None, 4), grown)
    assert (grown.created, grown.extended) == (1, 1)
    assert texts(system) == ["0", "1", "2", "3", "4", "5"]


def test_long_text_that_was_cut_into_passages_is_recognised(
    tmp_path: Path, system: MemorySystem
) -> None:
    long = " ".join(f"Sentence number {n} of a long text." for n in range(200))
    file = write_lines(tmp_path / "n.jsonl", {"text": long}, {"text": "short"})
    run_import(system, ADMIN, jsonl_source(file, None, 64), position(tmp_path, file))
    before = texts(system)
    assert len(before) > 2
    repeated = position(tmp_path, file)
    repeated.restart()
    run_import(system, ADMIN, jsonl_source(file, None, 64), repeated)
    assert (repeated.extended, repeated.skipped) == (0, 1)
    assert texts(system) == before


def test_frozen_cube_is_left_as_it_is(tmp_path: Path, system: MemorySystem) -> None:
    file = write_lines(tmp_path / "n.jsonl", {"text": "a"})
    run_import(system, ADMIN, jsonl_source(file, None, 4), position(tmp_path, file))
    system.update(ADMIN, "jsonl:n:1", CubePatch(state=State.FROZEN, reason="case 7"))
    write_lines(file, {"text": "a"}, {"text": "b"})
    grown = position(tmp_path, file)
    run_import(system, ADMIN, jsonl_source(file, None, 4), grown)
    assert (grown.extended, grown.skipped) == (0, 1)


def test_a_persons_import_is_not_taken_for_the_tenants(
    tmp_path: Path, system: MemorySystem
) -> None:
    file = write_lines(tmp_path / "n.jsonl", {"text": "a"})
    run_import(system, ADMIN, jsonl_source(file, None, 4), position(tmp_path, file))
    own = position(tmp_path, file, "other options")
    run_import(system, ADMIN, jsonl_source(file, "ann", 4), own)
    assert own.created == 1


def test_damaged_position_says_what_to_do(tmp_path: Path) -> None:
    file = notes(tmp_path / "n.jsonl", 1)
    position(tmp_path, file).save()
    (stored,) = (tmp_path / "imports").iterdir()
    stored.write_text("{")
    with pytest.raises(ConfigError, match="delete it to import from the beginning"):
        position(tmp_path, file)
