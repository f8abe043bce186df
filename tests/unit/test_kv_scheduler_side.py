"""The scheduler side: matches of a request, and its loads and saves."""

from __future__ import annotations

import dataclasses
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer
from memos_vllm.activation.orders import Orders, Source
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.parametric.adapter.folders import engine_name
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_store import MODEL, open_keeper, settings

pytest.importorskip("vllm", reason="what the two sides say to each other is vLLM's: make venv")

from memos_vllm.engine.kv.messages import Load, Piece, Save
from memos_vllm.engine.kv.scheduler_side import SchedulerSide
from memos_vllm.engine.kv.states import Match, When

LEAST = 32
TOKENS = list(range(500, 700))
CHAIN = (
    Segment(40, "tenant"),
    Segment(80, "tenant", ("a@1",)),
    Segment(140, "alice/salt", ("a@1", "b@2")),
)
ORDERS = Orders(CHAIN)
NAMER = Namer(MODEL)
BLOCKS = (7, 8, 9)


@dataclasses.dataclass
class FakeRequest:
    """A fake of vLLM's request, with the attributes that we read."""

    orders: dataclasses.InitVar[Orders | None] = ORDERS
    prompt_token_ids: list[int] | None = dataclasses.field(default_factory=TOKENS.copy)
    num_output_tokens: int = 1
    mm_features: list[Any] = dataclasses.field(default_factory=list)
    lora_request: Any = None
    kv_transfer_params: dict[str, Any] | None = None
    request_id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self, orders: Orders | None) -> None:
        if orders is not None:
            self.kv_transfer_params = orders.to_params()

    @property
    def num_prompt_tokens(self) -> int:
        return len(TOKENS if self.prompt_token_ids is None else self.prompt_token_ids)


@dataclasses.dataclass
class Engine:
    """A scheduler side over a real store, and that store."""

    keeper: TensorStore
    side: SchedulerSide

    def keep(self, chain=CHAIN, only: int | None = None, tokens=TOKENS) -> None:
        starts = [0, *(segment.end for segment in chain)]
        names = NAMER.names(tokens, chain)
        for i, (segment, (name,)) in enumerate(zip(chain, names, strict=True)):
            if only in (None, i):
                shape = Shape(1, segment.end - starts[i], 1, 8, torch.float32)
                about = {"digest": own_digest(tokens[starts[i] : segment.end])}
                assert self.keeper.add(name, shape, layers_of(shape), segment.cubes, about)

    def matched(self, request: FakeRequest, computed: int = 0) -> int:
        self.side.arrived(request)
        return self.side.match(request, computed).tokens

    def load(self, request: FakeRequest, computed: int = 0) -> Load:
        matched = self.matched(request, computed)
        self.side.allocated(request, BLOCKS, matched)
        (load,) = self.side.take_orders({}).loads
        return load

    def saves(self, request: FakeRequest) -> list[Save]:
        self.side.arrived(request)
        stays = self.side.finished(request, BLOCKS)
        saves = self.side.take_orders({}).saves
        assert stays == bool(saves), "blocks stay exactly while a save reads them"
        return saves


def engine_with(folder, namer: Namer = NAMER, **options) -> Engine:
    keeper, config = open_keeper(folder), settings(folder, segment_tokens=LEAST, **options)
    return Engine(keeper, SchedulerSide(keeper.segments, namer, config))


@pytest.fixture
def engine(tmp_path) -> Engine:
    return engine_with(tmp_path)


def of_length(tokens: int) -> FakeRequest:
    return FakeRequest(prompt_token_ids=TOKENS[:tokens])


# -- loading ---------------------------------------------------------------------------------------


def test_tokens_are_matched_up_to_the_first_segment_that_is_missing(engine):
    assert engine.matched(FakeRequest()) == 0
    engine.keep(only=0)
    engine.keep(only=2)
    assert engine.matched(FakeRequest()) == 40
    assert [piece.end for piece in engine.load(FakeRequest()).pieces] == [40]
    engine.keep(only=1)
    assert engine.matched(FakeRequest()) == 140
    assert engine.matched(FakeRequest(), computed=64) == 76


def test_tokens_that_prefill_has_sooner_are_not_loaded(engine):
    engine.keep()
    rates = engine.side.rates
    rates.learn({"prefill_tokens": 1000, "prefill_seconds": 1.0})
    rates.learn({"read_tokens_ram": 1000, "read_seconds_ram": 0.1})
    rates.learn({"read_tokens_disk": 1000, "read_seconds_disk": 9.0})
    assert engine.matched(FakeRequest()) == 140
    engine.keeper.segments.ram.wipe(str(NAMER.names(TOKENS, CHAIN)[2][0]))
    assert engine.matched(FakeRequest()) == 80, "the last one lies on a slow disk"
    rates.learn({"read_tokens_disk": 1e6, "read_seconds_disk": 9.0})
    assert engine.matched(FakeRequest()) == 140, "which has become faster"


def test_tokens_of_prompts_are_told_from_those_of_replies(engine):
    assert engine.side.take_orders({"a": 1, "b": 200, "c": 4}).prefill_tokens == 200


def test_a_load_names_its_segments_and_their_positions(engine):
    engine.keep()
    request = FakeRequest()
    load = engine.load(request)
    places = zip(load.pieces, CHAIN, NAMER.names(TOKENS, CHAIN), (0, 40, 80), strict=True)
    for piece, segment, (name,), start in places:
        digest = own_digest(TOKENS[start : segment.end])
        scope = short(segment.scope)
        assert piece == Piece(name, start, segment.end, segment.cubes, digest, scope, shift=0)
    assert (load.request_id, load.block_ids) == (request.request_id, BLOCKS)
    assert (load.start, load.end) == (0, 140)


def test_only_segments_behind_the_prefix_cache_are_loaded(engine):
    engine.keep()
    for computed, ends in ((32, [40, 80, 140]), (48, [80, 140]), (80, [140]), (96, [140])):
        load = engine.load(FakeRequest(), computed)
        assert (load.start, load.end) == (computed, 140)
        assert [piece.end for piece in load.pieces] == ends


def test_the_last_token_is_always_computed_and_segments_behind_it_are_left_out(engine):
    engine.keep()
    for length, end, last in ((141, 140, 140), (140, 139, 140), (139, 80, 80), (80, 79, 80)):
        load = engine.load(of_length(length))
        assert (load.start, load.end, load.pieces[-1].end) == (0, end, last)
    engine.keeper.segments.forget("a")
    assert [piece.end for piece in engine.saves(of_length(139))[0].pieces] == [80]


def test_less_than_the_least_is_not_worth_a_load(engine):
    engine.keep()
    assert engine.matched(FakeRequest(), computed=140 - LEAST) == LEAST
    assert engine.matched(FakeRequest(), computed=140 - LEAST + 1) == 0
    assert engine.matched(FakeRequest(), computed=160) == 0
    assert engine.matched(of_length(LEAST)) == 0


def test_requests_without_orders_or_whose_tokens_do_not_say_everything_are_left_alone(engine):
    engine.keep()
    assert engine.matched(FakeRequest()) > 0
    for request in (
        FakeRequest(None),
        FakeRequest(None, kv_transfer_params={"another": 1}),
        FakeRequest(mm_features=["an image"]),
        FakeRequest(lora_request=SimpleNamespace(lora_name="not-ours")),
        FakeRequest(prompt_token_ids=None),
    ):
        assert engine.matched(request) == 0
        engine.side.allocated(request, BLOCKS, 0)
        assert engine.side.take_orders({}).loads == []
    engine.keeper.segments.forget("a")
    assert engine.saves(FakeRequest(mm_features=["an image"])) == []
    assert engine.saves(FakeRequest(lora_request=SimpleNamespace(lora_name="not-ours"))) == []


def test_kv_under_an_adapter_is_the_adapter_s_alone(engine):
    adapters = [SimpleNamespace(lora_name=engine_name(digit * 64)) for digit in "ab"]
    engine.keep()
    assert [engine.matched(FakeRequest(lora_request=each)) for each in adapters] == [0, 0]
    names = [NAMER, *(NAMER.under(each.lora_name) for each in adapters)]
    keys = {namer.names(TOKENS, ORDERS.segments)[0][0] for namer in names}
    assert len(keys) == 3
    for request in (FakeRequest(), FakeRequest(lora_request=adapters[0])):
        engine.keeper.segments.forget("a")
        (save,) = engine.saves(request)
        expected = NAMER if request.lora_request is None else NAMER.under(adapters[0].lora_name)
        assert save.pieces[-1].name == expected.names(TOKENS, ORDERS.segments)[-1][0]


def test_alone_a_request_is_loaded_at_once_and_in_company_meanwhile(engine):
    engine.keep()
    first, second = FakeRequest(), FakeRequest()
    engine.side.arrived(first)
    assert engine.side.match(first, 0) == Match(140, When.IN_STEP)
    assert engine.load(first).when is When.IN_STEP
    engine.side.arrived(second)
    for request in (first, second):
        assert engine.side.match(request, 0) == Match(140, When.BETWEEN_STEPS)
        assert engine.load(request).when is When.BETWEEN_STEPS
    engine.side.finished(first, BLOCKS)
    assert engine.side.match(second, 0) == Match(140, When.IN_STEP)


def test_a_load_that_fails_is_tried_again_only_so_often(engine):
    engine.keep()
    request = FakeRequest()
    for _ in range(3):
        assert engine.load(request).pieces
    assert engine.matched(request) == 0
    assert engine.matched(FakeRequest()) == 140, "others are not held back"


def test_looking_without_loading_is_no_attempt_and_orders_are_taken_once(engine):
    engine.keep()
    request = FakeRequest()
    for _ in range(9):
        assert engine.matched(request) == 140
        engine.side.allocated(request, BLOCKS, 0)
    assert engine.side.take_orders({}).loads == []
    assert engine.load(request).pieces
    assert engine.side.take_orders({}).loads == []


# -- approximate -----------------------------------------------------------------------------------


def _near(engine: Engine) -> Orders:
    """B's text of another chain, where it stood 20 tokens later."""
    other = (Segment(100, "tenant"), Segment(160, "tenant", ("b@2",)))
    tokens = [1] * 100 + TOKENS[80:140]
    engine.keep(CHAIN[:2])
    engine.keep(other, tokens=tokens)
    (name,) = NAMER.names(tokens, other)[1]
    return Orders(CHAIN, save=False, near=(Source(2, name.scope, name.key, 100),))


def test_near_kv_is_loaded_from_elsewhere_and_moved(engine):
    orders = _near(engine)
    assert engine.matched(FakeRequest()) == 80
    exact, cube, near = engine.load(FakeRequest(orders)).pieces
    assert (exact.shift, cube.shift, near.shift) == (0, 0, 80 - 100)
    assert (near.start, near.end) == (80, 140)
    assert (near.name.scope, near.name.key) == (orders.near[0].scope, orders.near[0].key)
    assert near.digest == own_digest(TOKENS[80:140])


def test_near_kv_that_is_gone_is_computed(engine):
    orders = _near(engine)
    engine.keeper.segments.forget("b")
    assert engine.matched(FakeRequest(orders)) == 80


def test_the_end_of_a_near_load_may_be_recomputed(tmp_path):
    engine = engine_with(tmp_path, near_recompute_tokens=8)
    orders = _near(engine)
    load = engine.load(FakeRequest(orders))
    assert (load.end, load.pieces[-1].end) == (132, 140)
    assert engine.matched(FakeRequest()) == 80, "of exact KV nothing is"


def test_near_orders_are_never_saved(engine):
    orders = _near(engine)
    assert engine.saves(FakeRequest(orders)) == []
    assert engine.saves(FakeRequest(dataclasses.replace(orders, save=True))) == []
    assert len(engine.saves(FakeRequest())) == 1


# -- saving ----------------------------------------------------------------------------------------


def test_segments_that_the_store_lacks_are_saved(engine):
    engine.keep(only=0)
    request = FakeRequest()
    (save,) = engine.saves(request)
    assert (save.request_id, save.block_ids) == (request.request_id, BLOCKS)
    _, (a_name,), (b_name,) = NAMER.names(TOKENS, CHAIN)
    first, second = save.pieces
    assert first.name == a_name
    assert (first.start, first.end, first.cubes) == (40, 80, ("a@1",))
    digest, scope = own_digest(TOKENS[80:140]), short("alice/salt")
    assert second == Piece(b_name, 80, 140, ("a@1", "b@2"), digest, scope)


def test_nothing_is_saved_that_is_kept_or_was_forbidden_or_has_no_orders(engine):
    assert engine.saves(FakeRequest(Orders(CHAIN, save=False))) == []
    assert engine.saves(FakeRequest(None)) == []
    engine.keep()
    assert engine.saves(FakeRequest()) == []


def test_without_a_reply_nothing_is_saved(engine):
    assert engine.saves(FakeRequest(num_output_tokens=0)) == []
    assert len(engine.saves(FakeRequest(num_output_tokens=1))) == 1


def test_a_segment_in_flight_is_not_saved_twice(engine):
    first = FakeRequest(Orders(CHAIN[:2]))
    assert len(engine.saves(first)[0].pieces) == 2
    (second,) = engine.saves(FakeRequest())
    assert [piece.end for piece in second.pieces] == [140]
    assert engine.saves(FakeRequest()) == []
    engine.side.saved([first.request_id, second.request_id, "unknown"])
    assert len(engine.saves(FakeRequest())[0].pieces) == 3, "it never arrived: saved again"


def test_a_share_that_one_worker_lost_is_saved_again_by_all(tmp_path):
    namer = Namer(MODEL, ("0of2", "1of2"))
    engine = engine_with(tmp_path, namer)
    shape = Shape(1, 40, 1, 8, torch.float32)
    ((first, _),) = namer.names(TOKENS, CHAIN[:1])
    engine.keeper.add(first, shape, layers_of(shape), (), {"digest": "d"})
    (save,) = engine.saves(FakeRequest(Orders(CHAIN[:1])))
    assert [piece.name for piece in save.pieces] == [dataclasses.replace(first, rank="")]
