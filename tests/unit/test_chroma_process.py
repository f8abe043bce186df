"""Chroma in a process of its own: its files hold no memory of the server, and a kill costs no rows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memos_vllm.errors import IndexUnavailable
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.search.chroma_process import ChromaProcess
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.vault.items import Owner
from tests.conftest import make_config, principal

ALICE, BOB = (Owner(who.tenant, who.person) for who in (principal("alice"), principal("bob")))
SECRET = b"CANARY: the code of the safe is four seven one one. "


@pytest.fixture
def index(tmp_path: Path) -> Iterator[VectorIndex]:
    opened = VectorIndex(make_config(tmp_path, chroma={"process": True}))
    yield opened
    opened.close()


def vectors(count: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    whole: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return whole


def fill(index: VectorIndex, owner: Owner, cube: str, count: int) -> Vectors:
    made = vectors(count, sum(cube.encode()))
    index.upsert(owner, cube, [f"{cube}-{n:05d}" for n in range(count)], {"turn": made})
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_no_freed_memory_of_the_server_gets_into_the_files(
    index: VectorIndex, tmp_path: Path
) -> None:
    os.environ["CANARY_KEY"] = SECRET.decode()
    try:
        freed = [SECRET * 3000 for _ in range(200)]
        del freed
        fill(index, ALICE, "c1", 2500)  # more than its threshold for writing the index
        index.close()
    finally:
        del os.environ["CANARY_KEY"]
    found = files(tmp_path / "chroma")
    assert any(name.endswith("data_level0.bin") for name in found)
    assert [name for name, data in found.items() if SECRET in data or SECRET[:20] in data] == []


def test_compaction_removes_deleted_rows_and_keeps_all_others(
    index: VectorIndex, tmp_path: Path
) -> None:
    gone, kept = fill(index, ALICE, "gone", 1500), fill(index, ALICE, "kept", 1200)
    others = fill(index, BOB, "other", 30)
    index.drop_cube(ALICE, "gone")
    assert any(b"gone-00001" in data for data in files(tmp_path / "chroma").values())
    assert index.compact(ALICE)
    left = files(tmp_path / "chroma")
    assert [name for name, data in left.items() if b"gone-0" in data] == []
    assert [name for name, data in left.items() if gone[7].tobytes() in data] == []
    assert index.count_by_cube(ALICE) == {"kept": 1200}
    rows = dict(index.vectors(ALICE, "turn", [f"kept-{n:05d}" for n in range(1200)]))
    assert len(rows) == 1200
    assert np.allclose(rows["kept-00700"], kept[700], atol=1e-6)
    assert index.query(BOB, "turn", others[3], 1)[0][0] == "other-00003"


def test_a_killed_process_is_started_again_with_all_rows(index: VectorIndex) -> None:
    fill(index, ALICE, "c1", 20)
    client = index._open()
    assert isinstance(client, ChromaProcess)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    try:
        found = index.count_by_cube(ALICE)
    except IndexUnavailable:  # the call that met the death
        found = index.count_by_cube(ALICE)
    assert found == {"c1": 20}


def test_a_rebuild_that_was_killed_is_finished_or_undone(tmp_path: Path) -> None:
    config = make_config(tmp_path, chroma={"process": True})
    index = VectorIndex(config)
    fill(index, ALICE, "c1", 20)
    name = index._name(ALICE, "turn")
    index.close()
    client = ChromaProcess(config.chroma_path)
    client.get_or_create_collection(f"{name}.new").upsert(["x"], vectors(1, 1), [{"owner": "o"}])
    client.close()
    index = VectorIndex(config)
    assert index.count_by_cube(ALICE) == {"c1": 20}, "undone: the copy was not whole"
    names = {each.name for each in index._open().list_collections()}
    assert f"{name}.new" not in names
    index.close()
