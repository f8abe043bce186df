"""What LMCache is asked for and given, request by request; whatever it does, nothing rises."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.orders import Conversation, Orders, Source
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.config.tree import KVConfig

pytest.importorskip("vllm", reason="what the two sides say to each other is vLLM's: make venv")

from memos_vllm.engine.lmcache.ledger import Ledger, Place
from memos_vllm.engine.lmcache.messages import Transfer
from memos_vllm.engine.lmcache.scheduler_side import SchedulerSide
from tests.unit.test_kv_scheduler_side import FakeRequest as PlainRequest

CHUNK, BLOCK = 16, 8
TALK = Conversation(100, "alice/narrower", ("a@1", "b@2"))
BLOCKS = tuple(range(50, 80))


class FakeRequest(PlainRequest):
    pass


class FakeAdapter:
    """LMCache's scheduler adapter: what it has, by salt, and what it was told."""

    lmcache_tokens_per_chunk = CHUNK

    def __init__(self) -> None:
        self.is_healthy = True
        self.has: dict[str, int] = {}
        self.answers = True
        self.broken = False
        self.told: list[tuple[Any, ...]] = []
        self._asked: dict[str, int] = {}

    def maybe_submit_lookup_request(self, request_id: str, token_ids: list[int], cache_salt: str):
        self._check()
        self.told.append(("ask", len(token_ids), cache_salt))
        self._asked[request_id] = min(self.has.get(cache_salt, 0), len(token_ids))

    def check_lookup_result(self, request_id: str) -> int | None:
        self._check()
        return self._asked[request_id] if self.answers else None

    def cleanup_lookup_result(self, request_id: str) -> None:
        self._check()
        self._asked.pop(request_id, None)

    def free_lookup_locks(self, *, start: int, end: int, **_: Any) -> None:
        self._check()
        self.told.append(("free", start, end))

    def end_session(self, request_id: str) -> None:
        self.told.append(("end",))

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("its socket is closed")


class FakeLink:
    def __init__(self) -> None:
        self.adapter: FakeAdapter | None = FakeAdapter()
        self.losses = 0

    def get(self) -> FakeAdapter | None:
        return self.adapter

    def lost(self, adapter: Any) -> None:
        self.losses += 1


@dataclasses.dataclass
class FakeEndpoint:
    config: KVConfig
    block_size: int = BLOCK

    def hasher(self, chunk: int) -> Any:
        @dataclasses.dataclass
        class Hasher:
            @staticmethod
            def compute_chunk_hashes(tokens: list[int]) -> list[bytes]:
                ends = range(chunk, len(tokens) + 1, chunk)
                return [hashlib.sha256(repr(tokens[:end]).encode()).digest() for end in ends]

        return Hasher()

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
        tokens, _ = self.side.matched_tokens(request, computed)
        self.side.allocated(request, BLOCKS, tokens or 0)
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


def test_whole_chunks_in_front_of_what_was_retrieved_are_given_once(engine):
    _, save = engine.run(request())
    assert (save.start, save.end) == (0, 96), "of 200 tokens, 100 are the conversation's"
    assert save.block_ids == BLOCKS[: 96 // BLOCK]
    assert len(save.tokens) == 96
    assert engine.run(request())[1] is None, "it was given that"
    assert engine.run(request(), computed=199) == (None, None)
    _, more = engine.run(request(dataclasses.replace(TALK, end=150)))
    assert (more.start, more.end) == (96, 144)


def test_what_it_has_is_loaded_behind_what_the_engine_has(engine):
    salt = Place(TALK).salt
    engine.adapter.has[salt] = 96
    load, save = engine.run(request(), computed=24)
    assert (load.start, load.end, load.skip) == (16, 96, 8)
    assert load.block_ids == BLOCKS[2:12]
    assert load.written == BLOCKS[3:12], "the block that the engine has is not ours to write"
    assert save is None, "it has it"
    assert ("ask", 96, salt) in engine.adapter.told
    assert ("free", 0, 16) in engine.adapter.told, "the chunks that nobody loads"
    assert engine.adapter.told[-1] == ("end",)
    assert engine.store.remote.has([short("a"), short("b")], short("alice"), salt), (
        "another replica gave it, this one can delete it"
    )


@pytest.mark.parametrize("computed", [80, 96, 199])
def test_it_is_not_asked_for_what_is_hardly_worth_it(engine, computed):
    engine.adapter.has[Place(TALK).salt] = 96
    engine.run(request(), computed)
    assert [told for told in engine.adapter.told if told[0] == "ask"] == []


def test_another_tier_s_load_gives_its_own_up(engine):
    engine.adapter.has[Place(TALK).salt] = 96
    asking = request()
    assert engine.side.matched_tokens(asking, 0) == (96, True)
    engine.side.allocated(asking, BLOCKS, 0)
    assert engine.side.take_orders().loads == []
    assert ("free", 0, 96) in engine.adapter.told


def test_a_load_that_failed_is_not_tried_again(engine):
    engine.adapter.has[Place(TALK).salt] = 96
    asking = request()
    engine.side.allocated(asking, BLOCKS, engine.side.matched_tokens(asking, 0)[0])
    assert engine.side.matched_tokens(asking, 0) == (0, False)


def test_an_aborted_request_leaves_nothing_behind(engine):
    engine.adapter.has[Place(TALK).salt] = 96
    gone = request(num_output_tokens=0)
    engine.side.matched_tokens(gone, 0)
    assert engine.side.finished(gone, BLOCKS) is False
    assert ("free", 0, 96) in engine.adapter.told
    assert engine.adapter.told[-1] == ("end",)


def test_who_has_no_orders_is_left_alone(engine):
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
    assert engine.adapter.told == []


def test_a_salt_is_the_person_s_and_the_cubes_versions():
    changes = [
        {},
        {"scope": "bob/narrower"},
        {"scope": "alice"},
        {"cubes": ("a@1", "b@3")},
        {"cubes": ("b@2", "a@1")},
        {"cubes": ()},
    ]
    salts = {Place(dataclasses.replace(TALK, **change)).salt for change in changes}
    assert len(salts) == len(changes)
    assert Place(dataclasses.replace(TALK, end=7)).salt == Place(TALK).salt
    assert all(len(salt) == 40 and salt.isalnum() for salt in salts)


def test_a_deleted_cube_s_conversation_is_neither_given_nor_loaded(engine):
    engine.adapter.has[Place(TALK).salt] = 96
    engine.store.forget("b")
    assert engine.run(request()) == (None, None)
    engine.adapter.has.clear()
    asking = request(dataclasses.replace(TALK, cubes=("a@1",)))
    engine.side.matched_tokens(asking, 0)
    engine.store.forget("a")
    assert engine.side.finished(asking, BLOCKS) is False, "deleted while it ran"


def test_what_is_deleted_on_its_way_is_noted_and_deleted_again(engine, monkeypatch):
    taken: list[Any] = []
    monkeypatch.setattr(engine.store.remote, "delete", taken.extend)
    asking = request()
    engine.side.matched_tokens(asking, 0)
    assert engine.side.finished(asking, BLOCKS)
    engine.store.forget("a")
    taken.clear()
    ledger: Any = engine.side._ledger
    ledger._take_back(Place(TALK), ledger.unknown(Place(TALK), [b"x"]))
    assert [key["chunk_hash_hex"] for key in taken] == [b"x".hex()]
    monkeypatch.setattr("threading.Thread.start", lambda self: self.run())
    taken.clear()
    engine.side.saved([asking.request_id])
    assert len(taken) == 6


def test_what_was_not_saved_or_is_lost_is_given_again(engine):
    asking = request()
    engine.side.matched_tokens(asking, 0)
    engine.side.finished(asking, BLOCKS)
    engine.side.not_saved([asking.request_id])
    engine.side.saved([asking.request_id])
    engine.side.take_orders()
    _, save = engine.run(request(), computed=199)
    assert (save.start, save.end) == (0, 96)
    engine.adapter.has[Place(TALK).salt] = 48  # the rest was evicted
    load, save = engine.run(request())
    assert (load.end, save.start, save.end) == (48, 48, 96)


def test_without_a_server_everything_is_computed_and_counted(engine):
    engine.link.adapter = None
    assert engine.run(request()) == (None, None)
    assert engine.side.take_counts() == {"lmcache_unanswered": 1}
    assert engine.side.take_counts() == {}


def test_a_server_that_dies_while_it_is_asked(engine):
    asking = request()
    engine.adapter.answers = False
    assert engine.side.matched_tokens(asking, 0) == (None, False)
    engine.adapter.answers, engine.adapter.is_healthy = True, False
    assert engine.side.matched_tokens(asking, 0) == (0, False)
    assert engine.side.matched_tokens(asking, 0) == (0, False)
    assert engine.side.take_counts() == {"lmcache_unanswered": 1}


@pytest.mark.parametrize("when", ["ask", "answer", "allocate", "finish"])
def test_whatever_rises_is_a_miss(engine, when):
    engine.adapter.has[Place(TALK).salt] = 96
    asking = request()
    engine.adapter.broken = when == "ask"
    if when == "answer":
        engine.adapter.answers = False
        engine.side.matched_tokens(asking, 0)
        engine.adapter.answers, engine.adapter.broken = True, True
    tokens, _ = engine.side.matched_tokens(asking, 0)
    assert (tokens == 0) == (when in ("ask", "answer"))
    engine.adapter.broken = True
    engine.side.allocated(asking, BLOCKS, tokens if when == "allocate" else 0)
    engine.side.finished(asking, BLOCKS)
    assert engine.link.losses > 0


def test_a_record_that_cannot_be_written_keeps_the_kv_here(engine, tmp_path):
    (tmp_path / "lmcache").write_text("not a folder")
    assert engine.run(request()) == (None, None)
    assert engine.side.take_counts() == {"lmcache_save_failures": 1}
