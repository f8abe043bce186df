"""Concurrent writes: indexed together, each with its own outcome; reads do not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.errors import EmbedderUnavailable, VaultUnavailable
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.search.vector_store import VIEWS, Rows
from memos_vllm.system import MemorySystem
from memos_vllm.vault.database import Database
from memos_vllm.vault.items import Owner
from tests.conftest import make_config, principal

ALICE = principal("alice")


def remember(system: MemorySystem, who: Principal, text: str) -> str:
    new = NewCube(payload=ExplicitPayload(content=[Item(text=text)]))
    return system.create(who, [new])[0].meta.id


def meet(system: MemorySystem, *writes: Callable[[], object]) -> None:
    """Run writes in threads that all wait for the indexer at the same time."""
    threads = [threading.Thread(target=write) for write in writes]
    with system.indexer._lock:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(system.indexer._waiting) < len(threads) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(system.indexer._waiting) == len(threads)
    for thread in threads:
        thread.join()


def test_concurrent_writes_are_embedded_in_one_batch(system):
    people = [principal(f"p{n}") for n in range(6)]

    def write(who: Principal) -> Callable[[], object]:
        return lambda: remember(system, who, f"{who.person} has a boat.")

    with mock.patch.object(
        Embedder, "_encode", autospec=True, side_effect=Embedder._encode
    ) as encode:
        meet(system, *(write(who) for who in people))
    assert encode.call_count == 1
    assert system.outbox.size() == 0
    for who in people:
        assert len(system.index.ids_of(Owner(who.tenant, who.person), "turn")) == 1


def test_a_deletion_does_not_fail_with_a_concurrent_write(system):
    """A write needs the embedder, which is broken; a deletion does not."""
    gone = remember(system, ALICE, "To be forgotten.")
    settled: list[bool] = []
    with mock.patch.object(Embedder, "_encode", side_effect=EmbedderUnavailable("broken")):
        meet(
            system,
            lambda: settled.append(system.delete(ALICE, gone)[1]),
            lambda: remember(system, ALICE, "To be indexed later."),
        )
    assert settled == [True]
    assert system.outbox.size() == 1
    remember(system, ALICE, "Another.")
    assert system.outbox.size() == 0, "the next write processes the rest of the outbox"
    assert len(system.index.ids_of(Owner(ALICE.tenant, ALICE.person), "turn")) == 2


def test_reads_do_not_wait_for_writers_that_wait(tmp_path):
    """Writers that waited in SQLite itself would each hold one of the pool's 24 connections."""
    database = Database(make_config(tmp_path).database_url)
    database.migrate()

    def write() -> None:
        with database.write() as session:
            session.connection()  # only now does a transaction begin

    threads = [threading.Thread(target=write) for _ in range(40)]
    with database.write() as writing:
        writing.connection()
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        start = time.perf_counter()
        with database.read() as session:
            session.connection()
        assert time.perf_counter() - start < 1.0
    for thread in threads:
        thread.join()
    database.dispose()


def test_a_writer_that_waits_too_long_gets_vault_unavailable(tmp_path):
    config = make_config(tmp_path, database={"busy_timeout_seconds": 0.1})
    database = Database(config.database_url, config.database)
    database.migrate()
    refused: list[Exception] = []

    def write() -> None:
        with pytest.raises(VaultUnavailable) as caught, database.write():
            pass
        refused.append(caught.value)

    with database.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert refused
    database.dispose()


@pytest.mark.slow
def test_rows_of_one_collection_are_written_in_one_call(system):
    owner = Owner(ALICE.tenant, ALICE.person)
    vectors, parts = np.eye(4, dtype=np.float32), []
    for number in range(4):
        rows = vectors[number : number + 1]
        parts.append(Rows(owner, f"c{number}", [f"i{number}"], {"turn": rows}))
    for view in VIEWS:
        collection = system.index._collection(owner, view)
        collection.upsert = mock.Mock(side_effect=collection.upsert)
    system.index.upsert_all(parts)
    for view in VIEWS:
        (call,) = system.index._collection(owner, view).upsert.call_args_list
        assert len(call.kwargs["ids"]) == 4
    assert system.index.ids_of(owner, "turn") == {f"i{number}" for number in range(4)}
    system.index.drop_cube(owner, "c2")
    assert system.index.ids_of(owner, "turn") == {"i0", "i1", "i3"}
    (best, cosine), *_ = system.index.query(owner, "turn", vectors[3], 1)
    assert (best, round(cosine, 3)) == ("i3", 1.0)
