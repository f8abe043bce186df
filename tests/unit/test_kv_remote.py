"""Records of objects in LMCache, and the deletions that use them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.activation.lmcache import RemoteKV
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.config.kv import KVConfig

KEYS = [{"chunk_hash_hex": f"{i:02x}", "model_name": "m", "kv_rank": 1} for i in range(5)]


class FakeFrontend:
    """LMCache's HTTP frontend, as far as deletions go."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str | None, list[str]]] = []
        self.locked = 0
        self.refuses: str | None = None
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"adapters": [{"type_name": "fs"}, {"type_name": "s3"}]})

            def do_DELETE(self) -> None:
                length = int(self.headers["Content-Length"])
                self._answer(fake.delete(json.loads(self.rfile.read(length))))

            def _answer(self, body: dict[str, Any]) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.refuses:
            return {"deleted": 0, "skipped": 0, "ok": False, "error": self.refuses}
        if body["tier"] == "l1" and self.locked and not body["force"]:
            self.locked -= 1
            return {"deleted": 0, "skipped": 1, "ok": True}
        hashes = [key["chunk_hash_hex"] for key in body["keys"]]
        self.deleted.append((body["tier"], body.get("adapter"), hashes))
        return {"deleted": len(hashes), "skipped": 0, "ok": True}

    def gone(self) -> set[str]:
        return {each for tier, _, hashes in self.deleted if tier == "l1" for each in hashes}


@pytest.fixture
def frontend() -> Iterator[FakeFrontend]:
    fake = FakeFrontend()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def remote(folder: Path, *urls: str) -> RemoteKV:
    return RemoteKV(KVConfig(lmcache_http_urls=urls), folder)


def test_a_lookup_makes_no_file_and_sends_no_request(tmp_path):
    kv = remote(tmp_path / "lmcache", "http://127.0.0.1:1")
    assert kv.forget_cube("a") == kv.forget_scope("s") == 0
    assert not kv.has(["a"], "s", "salt")
    assert not (tmp_path / "lmcache").exists()


def test_a_cube_s_objects_go_everywhere_and_no_others(tmp_path, frontend):
    kv = remote(tmp_path, frontend.url)
    kv.note(["a", "b"], "s", "salt1", KEYS[:2])
    kv.note(["a"], "s", "salt2", KEYS[2:3])
    kv.note(["c"], "s", "salt3", KEYS[3:])
    assert kv.forget_cube("a") == 3
    assert frontend.gone() == {"00", "01", "02"}
    assert {(tier, adapter) for tier, adapter, _ in frontend.deleted} == {
        ("l1", None),
        ("l2", "fs"),
        ("l2", "s3"),
    }
    assert frontend.deleted[0][0] == "l1", "memory first"
    assert not kv.has(["a", "b"], "s", "salt1")
    assert kv.has(["c"], "s", "salt3")
    assert kv.forget_cube("a") == 0
    assert kv.forget_scope("s") == 5, "a scope's records are its own"


def test_every_server_is_told(tmp_path, frontend):
    other = FakeFrontend()
    kv = remote(tmp_path, frontend.url, other.url)
    kv.note(["a"], "s", "salt", KEYS)
    kv.forget_cube("a")
    assert frontend.gone() == other.gone() == {f"{i:02x}" for i in range(5)}
    other.server.shutdown()
    other.server.server_close()


def test_a_deletion_waits_for_objects_that_are_being_read(tmp_path, frontend):
    kv = remote(tmp_path, frontend.url)
    kv.note(["a"], "s", "salt", KEYS)
    frontend.locked = 3
    assert kv.forget_cube("a") == 5
    assert frontend.locked == 0
    assert frontend.gone() == {f"{i:02x}" for i in range(5)}


def test_a_deletion_that_fails_is_done_by_a_later_call(tmp_path, frontend):
    kv = remote(tmp_path, frontend.url)
    kv.note(["a"], "s", "salt", KEYS[:2])
    for refusal in ("disk on fire", "still"):
        frontend.refuses = refusal
        with pytest.raises(OSError, match=refusal):
            kv.forget_cube("a")
        kv.note(["a"], "s", "salt", KEYS[2:])  # goes on meanwhile
    with pytest.raises(OSError, match="LMCache"):
        remote(tmp_path, frontend.url, "http://127.0.0.1:1").forget_cube("a")
    frontend.refuses = None
    frontend.deleted.clear()
    assert kv.forget_cube("a") == 5
    assert frontend.gone() == {f"{i:02x}" for i in range(5)}
    assert kv.forget_cube("a") == 0


def test_many_objects_are_deleted_in_pieces(tmp_path, frontend):
    kv = remote(tmp_path, frontend.url)
    keys = [{**KEYS[0], "chunk_hash_hex": f"{i:04x}"} for i in range(2500)]
    kv.note([], "s", "salt", keys)
    assert kv.forget_scope("s") == 2500
    assert len(frontend.gone()) == 2500
    assert max(len(hashes) for _, _, hashes in frontend.deleted) == 1000


def test_forgetting_a_cube_deletes_its_objects_in_lmcache(tmp_path, frontend):
    config = KVConfig(ram_bytes=0, lmcache_http_urls=(frontend.url,))
    store = SegmentStore(config, tmp_path)
    store.remote.note([short("a")], short("person"), "salt", KEYS)
    store.remote.note([], short("person"), "other", KEYS[:1])
    assert store.forget("b") == 0
    assert store.forget("a", 7) == 5
    store.forget_scope("person")
    assert frontend.gone() == {f"{i:02x}" for i in range(5)}


def test_a_server_that_is_away_keeps_a_deletion_open(tmp_path):
    config = KVConfig(ram_bytes=0, lmcache_http_urls=("http://127.0.0.1:1",))
    store = SegmentStore(config, tmp_path)
    store.forget("a")
    store.remote.note([short("a")], short("person"), "salt", KEYS)
    with pytest.raises(OSError, match=r"LMCache at .* does not delete"):
        store.forget("a")
    assert store.gone.any_buried(["a@1"]), "it is not kept again"
