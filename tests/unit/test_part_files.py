"""Files of derived data: what they restore, and that they go with the text."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube
from memos_vllm.errors import IndexUnavailable
from memos_vllm.plaintext.search.owner_index import OwnerIndex, Part
from memos_vllm.plaintext.search.part_arrays import KIND, arrays_of, hashes_of, restored
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner, PartKey
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")
OWNER = Owner(ALICE.tenant, ALICE.person)
TEXTS = (
    "My cat is called Miso.",
    "When did it rain?",
    "On 3 May 2023 it rained.",
    "私は肉を食べません。",
)


class Server:
    """Memory that can be restarted."""

    def __init__(self, home: Path) -> None:
        self.config = make_config(home)
        self.system = MemorySystem(self.config).open()

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.config.search_path.rglob("*") if path.is_file())

    def restart(self) -> None:
        self.system.close()
        self.system = MemorySystem(self.config).open()

    def add(self, *texts: str, person: Any = ALICE) -> str:
        items = [Item(text=text, speaker="alice") for text in texts]
        new = NewCube(payload=ExplicitPayload(content=items))
        return self.system.create(person, [new])[0].meta.id

    def search(self, question: str, person: Any = ALICE) -> list[tuple[str, float]]:
        vector = asyncio.run(self.system.embed_question(person, question))
        found = self.system.search(person, question, vector, 5).found
        return [(hit.recalled.item.text, hit.score) for hit in found]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "home")
    yield made
    made.system.close()


def test_a_part_is_restored_with_every_array(server: Server) -> None:
    server.add(*TEXTS)
    (cube,) = server.system.views.owner_cubes(OWNER)
    part = Part.of(cube.key, cube.items or [])
    again = restored(Part, arrays_of(part), {"key": cube.key, "items": cube.items})
    assert again is not None
    before, after = arrays_of(part), arrays_of(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    words = OwnerIndex.build(1, [part]).lexical(["cat"])
    assert all(
        np.array_equal(scores, words[name])
        for name, scores in OwnerIndex.build(1, [again]).lexical(["cat"]).items()
    )


def test_hashes_are_the_same_in_every_process() -> None:
    assert hashes_of(["cat", "猫", "cat"]).tolist() == [
        3429664268601861939,
        4140028929945838904,
        3429664268601861939,
    ]


def test_a_search_after_a_start_reads_neither_chroma_nor_tokenizes(server: Server) -> None:
    server.add(*TEXTS)
    server.add("My dog is called Rex.")
    before = server.search("what is the cat called")
    server.restart()
    with (
        mock.patch.object(VectorIndex, "vectors", side_effect=IndexUnavailable("down")),
        mock.patch.object(Part, "of", side_effect=AssertionError("derived again")),
    ):
        assert server.search("what is the cat called") == before


def test_files_are_private_and_hold_no_text(server: Server) -> None:
    server.add(*TEXTS)
    server.search("cat")
    server.system.part_files.close()
    assert len(server.files) == 2
    for path in server.files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        data = path.read_bytes().lower()
        assert b"miso" not in data
        assert b"alice" not in data
        assert "alice" not in str(path.relative_to(server.config.search_path))


@pytest.mark.parametrize("how", ["cut off", "flipped", "empty", "other code", "other shape"])
def test_an_unusable_file_is_derived_again(server: Server, how: str) -> None:
    server.add(*TEXTS)
    before = server.search("cat")
    server.restart()
    (cube,) = server.system.index_state.cube_versions(OWNER)
    files = PartFiles(server.config.search_path, server.system.index_state.cube_versions)
    for path in server.files:
        data = path.read_bytes()
        if how == "cut off":
            path.write_bytes(data[: len(data) // 2])
        elif how == "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif how == "empty":
            path.write_bytes(b"")
        elif how == "other code":
            path.rename(path.with_suffix(path.suffix[:-1] + "z"))
        else:
            files.save(OWNER, cube, path.suffix[1:], {"turn": np.zeros((1, 3), dtype=np.float32)})
    assert server.search("cat") == before
    server.system.part_files.close()
    assert len(server.files) == 2  # those that could not be used are replaced


def test_deleted_and_changed_text_takes_its_files_along(server: Server) -> None:
    kept, gone = server.add(*TEXTS), server.add("My dog is called Rex.")
    server.search("cat")
    server.restart()
    assert len(server.files) == 4
    server.system.delete(ALICE, gone)
    assert len(server.files) == 2
    server.system.update(
        ALICE, kept, CubePatch(payload=ExplicitPayload(content=[Item(text="Only my parrot.")]))
    )
    assert server.files == []  # the next search writes those of the new version
    assert [text for text, _ in server.search("Rex cat dog parrot")] == ["Only my parrot."]
    server.restart()
    assert [text for text, _ in server.search("Rex cat dog parrot")] == ["Only my parrot."]
    server.system.delete(ALICE, kept)
    assert server.files == []
    assert list(server.config.search_path.iterdir()) == []  # nor the owner's folder


def test_a_search_before_a_change_is_indexed_leaves_the_files_of_its_version(
    server: Server,
) -> None:
    with mock.patch.object(VectorIndex, "upsert_all", side_effect=IndexUnavailable("down")):
        server.add(*TEXTS)
    server.search("cat")
    server.system.indexer.drain()
    server.restart()
    assert [path.suffix.partition("-")[0] for path in server.files] == [".words"]
    with mock.patch.object(Part, "of", side_effect=AssertionError("derived again")):
        assert server.search("cat")


def test_a_save_that_crosses_a_deletion_leaves_no_file(server: Server) -> None:
    cube = server.add(*TEXTS)
    (key,) = server.system.index_state.cube_versions(OWNER)
    server.system.delete(ALICE, cube)
    server.system.part_files.save_soon(OWNER, [(key, KIND, {"hashes": np.zeros(1)})])
    server.system.part_files.close()
    assert server.files == []


def test_what_a_killed_process_left_is_swept(server: Server) -> None:
    server.add(*TEXTS)
    server.search("cat")
    server.restart()
    files = PartFiles(server.config.search_path, server.system.index_state.cube_versions)
    arrays = {"hashes": np.zeros(1)}
    files.save(OWNER, PartKey("gone", "v1", None), KIND, arrays)
    files.save(Owner(BOB.tenant, BOB.person), PartKey("gone", "v1", None), KIND, arrays)
    assert len(server.files) == 4
    server.system.indexer._check_signature()
    server.system.indexer._check_signature()
    assert len(server.files) == 2


def test_vectors_of_a_change_that_is_not_indexed_yet_are_not_kept(server: Server) -> None:
    """Chroma still has the vectors of the old window: a file of the new version must not."""
    cube = server.add("The first note.", "The second note.")
    server.search("note")
    with mock.patch.object(VectorIndex, "upsert_all", side_effect=IndexUnavailable("down")):
        texts = ("Another first note.", "The second note.")
        items = [Item(text=text, speaker="alice") for text in texts]
        server.system.update(ALICE, cube, CubePatch(payload=ExplicitPayload(content=items)))
    server.search("note")
    server.restart()
    assert not any("vectors" in path.name for path in server.files)
    server.system.indexer.drain()
    expected = server.search("note")
    server.restart()
    assert server.search("note") == expected
    server.system.indexer.rebuild()
    assert server.files == []
    assert [text for text, _ in server.search("note")] == [text for text, _ in expected]


def test_a_disk_that_cannot_be_written_costs_the_files_only(server: Server) -> None:
    server.add(*TEXTS)
    with mock.patch.object(Path, "mkdir", side_effect=PermissionError("read-only")):
        assert server.search("cat")[0][0] == TEXTS[0]
        server.system.part_files.close()
    assert server.files == []
