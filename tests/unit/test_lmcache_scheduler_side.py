"""Lookups, loads and saves of LMCache, request by request; none of its errors reaches the engine."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.orders import Conversation, Orders, Source
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.config.kv import KVConfig

pytest.importorskip("vllm", reason="what the two sides say to each other is vLLM's: make venv")

from memos_vllm.engine.kv.states import MISS, UNDECIDED, Match, When
from memos_vllm.engine.lmcache.client import LookupClient
from memos_vllm.engine.lmcache.ledger import ConversationKV, Ledger
from memos_vllm.engine.lmcache.messages import Transfer
from memos_vllm.engine.lmcache.scheduler_side import SchedulerSide
from tests.unit.test_kv_scheduler_side import FakeRequest as PlainRequest

CHUNK, BLOCK = 16, 8
TALK = Conversation(100, "alice/narrower", ("a@1", "b@2"))
BLOCKS = tuple(range(50, 80))


class FakeRequest(PlainRequest):
    pass


class FakeAdapter:
    """LMCache's scheduler adapter: tokens that it has, by salt, and the calls that it got."""

    lmcache_tokens_per_chunk = CHUNK

    def __init__(self) -> None:
        self.is_healthy = True
        self.has: dict[str, int] = {}
        self.answers = True
        self.broken = False
        self.calls: list[tuple[Any, ...]] = []
        self._asked: dict[str, int] = {}

    def maybe_submit_lookup_request(self, request_id: str, token_ids: list[int], cache_salt: str):
        self._check()
        self.calls.append(("ask", len(token_ids), cache_salt))
        self._asked[request_id] = min(self.has.get(cache_salt, 0), len(token_ids))

    def check_lookup_result(self, request_id: str) -> int | None:
        self._check()
        return self._asked[request_id] if self.answers else None

    def cleanup_lookup_result(self, request_id: str) -> None:
        self._check()
        self._asked.pop(request_id, None)

    def free_lookup_locks(self, *, start: int, end: int, **_: Any) -> None:
        self._check()
        self.calls.append(("free", start, end))

    def end_session(self, request_id: str) -> None:
        self.calls.append(("end",))

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("its socket is closed")


class FakeLink:
    def __init__(self) -> None:
        self.adapter = FakeAdapter()
        self.client: LookupClient | None = LookupClient(self.adapter)
        self.losses = 0

    def get(self) -> LookupClient | None:
        return self.client

    def lost(self, client: Any) -> None:
        self.losses += 1


@dataclasses.dataclass
class FakeEndpoint:
    config: KVConfig
    block_size: int = BLOCK

    @staticmethod
    def hashes(tokens: Any, chunk: int) -> list[bytes]:
        ends = range(chunk, len(tokens) + 1, chunk)
        return [hashlib.sha256(repr(list(tokens[:end])).encode()).digest() for end in ends]

    def keys(self, salt: str, hashes: Any) -> list[dict[str, Any]]:
        return [{"chunk_hash_hex": each.hex(), "cache_salt": salt} for each in hashes]


class Engine:
    def __init__(self, folder: Any) -> None:
        config = KVConfig(ram_bytes=0, segment_tokens=32, lmcache_http_urls=())
        self.store = SegmentStore(config, folder)
        endpoint: Any = FakeEndpoint(config)
        self.link: Any = FakeLink()
        self.side = SchedulerSide(Ledger(self.store, endpoint.keys), endpoint, self.link)

    @property
    def adapter(self) -> FakeAdapter:
        return self.link.adapter

    def run(self, request: Any, computed: int = 0) -> tuple[Transfer | None, Transfer | None]:
        """A request from its arrival to its end; its (load, save)."""
        self.side.allocated(request, BLOCKS, self.side.match(request, computed).tokens)
        loads = self.side.take_orders().loads
        self.side.finished(request, BLOCKS)
        saves = self.side.take_orders().saves
        for save in saves:
            self.adapter.has[save.salt] = save.end
            self.side.saved([request.request_id])
        return (loads or [None])[0], (saves or [None])[0]


@pytest.fixture
def engine(tmp_path) -> Engine:
    return Engine(tmp_path)


def request(talk: Conversation | None = TALK, **fields: Any) -> FakeRequest:
    return FakeRequest(Orders((), conversation=talk) if talk else None, **fields)


def test_whole_chunks_before_the_retrieved_text_are_saved_once(engine):
    _, save = engine.run(request())
    assert (save.start, save.end) == (0, 96), "of 200 tokens, 100 are the conversation's"
    assert save.block_ids == BLOCKS[: 96 // BLOCK]
    assert len(save.tokens) == 96
    assert engine.run(request())[1] is None, "it was given that"
    assert engine.run(request(), computed=199) == (None, None)
    _, more = engine.run(request(dataclasses.replace(TALK, end=150)))
    assert (more.start, more.end) == (96, 144)


def test_a_match_is_loaded_behind_the_prefix_cache(engine):
    salt = ConversationKV(TALK).salt
    engine.adapter.has[salt] = 96
    load, save = engine.run(request(), computed=24)
    assert (load.start, load.end, load.skip) == (16, 96, 8)
    assert load.block_ids == BLOCKS[2:12]
    assert load.written == BLOCKS[3:12], "the block in the prefix cache is not written"
    assert save is None, "it has it"
    assert ("ask", 96, salt) in engine.adapter.calls
    assert ("free", 0, 16) in engine.adapter.calls, "the chunks that are not loaded"
    assert engine.adapter.calls[-1] == ("end",)
    assert engine.store.remote.has([short("a"), short("b")], short("alice"), salt), (
        "another replica gave it, this one can delete it"
    )


@pytest.mark.parametrize("computed", [80, 96, 199])
def test_a_lookup_that_is_not_worth_it_is_not_sent(engine, computed):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    engine.run(request(), computed)
    assert [call for call in engine.adapter.calls if call[0] == "ask"] == []


def test_another_tier_s_load_gives_its_own_up(engine):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    asking = request()
    assert engine.side.match(asking, 0) == Match(96, When.BETWEEN_STEPS)
    engine.side.allocated(asking, BLOCKS, 0)
    assert engine.side.take_orders().loads == []
    assert ("free", 0, 96) in engine.adapter.calls


def test_a_load_that_failed_is_not_tried_again(engine):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    asking = request()
    engine.side.allocated(asking, BLOCKS, engine.side.match(asking, 0).tokens)
    assert engine.side.match(asking, 0) == MISS


def test_an_aborted_request_leaves_nothing_behind(engine):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    gone = request(num_output_tokens=0)
    engine.side.match(gone, 0)
    assert engine.side.finished(gone, BLOCKS) is False
    assert ("free", 0, 96) in engine.adapter.calls
    assert engine.adapter.calls[-1] == ("end",)


def test_a_request_without_orders_is_not_looked_up(engine):
    near = Orders((Segment(50, "s"),), False, (Source(0, "s", "k", 7),), TALK)
    unsaved = Orders((Segment(50, "s"),), save=False, conversation=TALK)
    others = [
        request(None),
        FakeRequest(near),
        FakeRequest(unsaved),
        FakeRequest(Orders((Segment(50, "s"),))),
        request(mm_features=["an image"]),
        request(lora_request="an adapter"),
    ]
    for other in others:
        assert engine.run(other) == (None, None)
    assert engine.adapter.calls == []


def test_a_salt_is_the_person_s_and_the_cubes_versions():
    changes = [
        {},
        {"scope": "bob/narrower"},
        {"scope": "alice"},
        {"cubes": ("a@1", "b@3")},
        {"cubes": ("b@2", "a@1")},
        {"cubes": ()},
    ]
    salts = {ConversationKV(dataclasses.replace(TALK, **change)).salt for change in changes}
    assert len(salts) == len(changes)
    assert ConversationKV(dataclasses.replace(TALK, end=7)).salt == ConversationKV(TALK).salt
    assert all(len(salt) == 40 and salt.isalnum() for salt in salts)


def test_a_deleted_cube_s_conversation_is_neither_given_nor_loaded(engine):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    engine.store.forget("b")
    assert engine.run(request()) == (None, None)
    engine.adapter.has.clear()
    asking = request(dataclasses.replace(TALK, cubes=("a@1",)))
    engine.side.match(asking, 0)
    engine.store.forget("a")
    assert engine.side.finished(asking, BLOCKS) is False, "deleted while it ran"


def test_a_save_in_flight_of_a_deleted_cube_is_recorded_and_deleted_again(engine, monkeypatch):
    taken: list[Any] = []
    monkeypatch.setattr(engine.store.remote, "delete", taken.extend)
    asking = request()
    engine.side.match(asking, 0)
    assert engine.side.finished(asking, BLOCKS)
    engine.store.forget("a")
    taken.clear()
    ledger: Any = engine.side._ledger
    ledger._take_back(ConversationKV(TALK), ledger.unknown(ConversationKV(TALK), [b"x"]))
    assert [key["chunk_hash_hex"] for key in taken] == [b"x".hex()]
    monkeypatch.setattr("threading.Thread.start", lambda self: self.run())
    taken.clear()
    engine.side.saved([asking.request_id])
    assert len(taken) == 6


def test_a_save_of_a_deleted_cube_is_deleted_again_when_lmcache_is_back(engine, monkeypatch):
    """It was tried once: an object of a deleted cube stayed on the disk of an LMCache that had ended."""
    calls: list[Any] = []

    def delete(keys: Any) -> None:
        calls.append(keys)
        if len(calls) < 3:
            raise ConnectionError("LMCache is away")

    monkeypatch.setattr(engine.store.remote, "delete", delete)
    monkeypatch.setattr("memos_vllm.engine.lmcache.ledger._FIRST_RETRY_SECONDS", 0.01)
    engine.side._ledger._take_back(ConversationKV(TALK), [b"x"])
    assert len(calls) == 3
    assert calls[0] == calls[2]
    records = [path.read_text().count("\n") for path in engine.store.remote._cubes.glob("*/*")]
    assert records == [1, 1], "one record in each cube"


def test_chunks_that_lmcache_lost_are_saved_again(engine):
    asking = request()
    engine.side.match(asking, 0)
    engine.side.finished(asking, BLOCKS)
    engine.side.not_saved([asking.request_id])
    engine.side.saved([asking.request_id])
    engine.side.take_orders()
    _, save = engine.run(request(), computed=199)
    assert (save.start, save.end) == (0, 96)
    engine.adapter.has[ConversationKV(TALK).salt] = 48  # the rest was evicted
    load, save = engine.run(request())
    assert (load.end, save.start, save.end) == (48, 48, 96)


def test_without_a_server_everything_is_computed_and_counted(engine):
    engine.link.client = None
    assert engine.run(request()) == (None, None)
    assert engine.side.take_counts() == {"lmcache_unanswered": 1}
    assert engine.side.take_counts() == {}


def test_a_server_that_dies_while_it_is_asked(engine):
    asking = request()
    engine.adapter.answers = False
    assert engine.side.match(asking, 0) == UNDECIDED
    engine.adapter.answers, engine.adapter.is_healthy = True, False
    assert engine.side.match(asking, 0) == MISS
    assert engine.side.match(asking, 0) == MISS
    assert engine.side.take_counts() == {"lmcache_unanswered": 1}


@pytest.mark.parametrize("when", ["ask", "answer", "allocate", "finish"])
def test_an_error_of_lmcache_is_a_miss(engine, when):
    engine.adapter.has[ConversationKV(TALK).salt] = 96
    asking = request()
    engine.adapter.broken = when == "ask"
    if when == "answer":
        engine.adapter.answers = False
        engine.side.match(asking, 0)
        engine.adapter.answers, engine.adapter.broken = True, True
    tokens = engine.side.match(asking, 0).tokens
    assert (tokens == 0) == (when in ("ask", "answer"))
    engine.adapter.broken = True
    engine.side.allocated(asking, BLOCKS, tokens if when == "allocate" else 0)
    engine.side.finished(asking, BLOCKS)
    assert engine.link.losses > 0


def test_a_record_that_cannot_be_written_keeps_the_kv_here(engine, tmp_path):
    (tmp_path / "lmcache").write_text("not a folder")
    assert engine.run(request()) == (None, None)
    assert engine.side.take_counts() == {"lmcache_save_failures": 1}


def test_a_bug_of_ours_is_no_error_of_lmcache(engine, monkeypatch):
    def breaks(self: Any, *_: Any) -> int:
        raise TypeError("our own")

    monkeypatch.setattr(LookupClient, "lookup_result", breaks)
    with pytest.raises(TypeError, match="our own"):
        engine.side.match(request(), 0)
    assert engine.link.losses == 0
