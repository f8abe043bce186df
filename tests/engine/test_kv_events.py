"""KV events: a subscriber sees which blocks are kept behind the engine, and when they are gone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from memos_vllm.engine.kv.events import is_local
from tests.engine.harness import Server, wait_for
from tests.engine.kv import BLOCK, RULES, ask, make

TEXT = "Opening hours. " + " ".join(RULES)


class Subscriber:
    """Of one server's events, all since it connected. vLLM binds `ipc://`, and connects to a `tcp://` host."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.connect(endpoint)
        self._socket.subscribe(b"")
        self._events: list[dict[str, Any]] = []

    def events(self, kind: str, *mediums: str) -> list[dict[str, Any]]:
        while self._socket.poll(0):
            _, _, payload = self._socket.recv_multipart()
            for event in msgspec.msgpack.decode(payload)[1]:
                self._events.append(event)
        return [each for each in self._events if each["type"] == kind and each["medium"] in mediums]

    def close(self) -> None:
        self._socket.close(0)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Server, Subscriber]]:
    folder = tempfile.TemporaryDirectory(prefix="kv-")  # a socket's path has 107 characters at most
    endpoint = f"ipc://{folder.name}/events"
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint}
    flags = ("--kv-events-config", json.dumps(config))
    server = Server(tmp_path, home=tmp_path / "home", flags=flags)
    with server.running():
        subscriber = Subscriber(endpoint)
        try:
            yield server, subscriber
        finally:
            subscriber.close()
            folder.cleanup()


def hashes(events: list[dict[str, Any]]) -> set[bytes]:
    return {each for event in events for each in event["block_hashes"]}


def test_kept_blocks_are_announced_and_deleted_ones_are_taken_back(published):
    server, subscriber = published
    cube = make(server, "hours", TEXT)

    def kept() -> list[dict[str, Any]]:
        ask(server, "ann", cube)  # events travel with the engine's steps
        return subscriber.events("BlockStored", "CPU", "STORAGE")

    stored = wait_for(kept, "the events of a kept segment")
    computed = hashes(subscriber.events("BlockStored", "GPU"))
    assert hashes(stored) <= computed, "they are the engine's own blocks"
    for event in stored:
        assert event["block_size"] == BLOCK
        assert len(event["token_ids"]) == BLOCK * len(event["block_hashes"])
        assert event["parent_block_hash"] is None or event["parent_block_hash"] in computed
    text = max(
        stored, key=lambda event: len(event["block_hashes"])
    )  # not what stands in front of it
    assert len(text["token_ids"]) > 500

    with server.http() as http:
        assert http.delete(f"/v1/memory/cubes/{cube}").status_code in (200, 204)
    other = make(server, "other", "Nothing else.")

    def gone() -> bool:
        ask(server, "ann", other)
        removed = subscriber.events("BlockRemoved", "CPU", "STORAGE")
        return hashes([text]) <= hashes(removed)

    wait_for(gone, "the events of its deletion")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:5557", True),
        ("tcp://localhost:5557", True),
        ("tcp://[::1]:5557", True),
        ("ipc:///run/events", True),
        ("tcp://*:5557", False),
        ("tcp://0.0.0.0:5557", False),
        ("tcp://10.0.0.7:5557", False),
        ("tcp://router:5557", False),
    ],
)
def test_which_streams_leave_the_machine(endpoint: str, local: bool):
    assert is_local(endpoint) is local
