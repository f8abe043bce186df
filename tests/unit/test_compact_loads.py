"""The scheduler side and compacts: their places are loaded, whatever it costs, and never computed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from memos_vllm.activation.chain import own_digest
from memos_vllm.activation.files import Shape
from memos_vllm.activation.orders import Orders, Source
from tests.unit.test_kv_files import layers_of

pytest.importorskip("vllm", reason="what the two sides say to each other is vLLM's: make venv")

from tests.unit.test_kv_scheduler_side import CHAIN, NAMER, TOKENS, Engine, FakeRequest, engine_with


@pytest.fixture
def engine(tmp_path) -> Engine:
    return engine_with(tmp_path)


PLACED = Orders(CHAIN, compact=(Source(1, "folder", "k" * 40, 11),))


def placed(engine: Engine, *, keep_head: bool = True, keep_compact: bool = True) -> None:
    """Store the head of the chain, and a compact in place of its second segment."""
    if keep_head:
        engine.keep(only=0)
    if keep_compact:
        (name,) = NAMER.names(TOKENS, CHAIN)[1]
        name = dataclasses.replace(name, scope="folder", key="k" * 40)
        shape = Shape(1, 40, 1, 8, torch.float32)
        about = {"digest": own_digest(TOKENS[40:80])}
        assert engine.keeper.add(name, shape, layers_of(shape), ["a@1"], about)


def test_a_compact_is_loaded_from_its_own_file_and_moved(engine):
    placed(engine)
    load = engine.load(FakeRequest(PLACED))
    assert (load.start, load.end) == (0, 80)
    head, places = load.pieces
    assert (places.name.scope, places.name.key) == ("folder", "k" * 40)
    assert places.shift == 40 - 11
    assert head.shift == 0


def test_behind_the_cached_part_of_a_compact_the_rest_is_loaded(engine):
    placed(engine)
    load = engine.load(FakeRequest(PLACED), computed=64)
    assert (load.start, load.end) == (64, 80), "fewer than the least that is else worth a load"
    assert engine.matched(FakeRequest(PLACED), computed=80) == 0


@pytest.mark.parametrize("missing", ["head", "compact"])
def test_places_are_never_computed(engine, missing):
    """What is missing is ordered all the same: the load fails, and the request ends."""
    placed(engine, keep_head=missing != "head", keep_compact=missing != "compact")
    request = FakeRequest(PLACED)
    for _ in range(5):  # after each preemption
        load = engine.load(request)
        assert (load.start, load.end) == (0, 80)


def test_a_load_that_is_slower_than_computing_is_no_choice(engine):
    placed(engine)
    engine.side.rates.learn(
        {"prefill_tokens": 1e9, "prefill_seconds": 1, "read_tokens_ram": 1, "read_seconds_ram": 1}
    )
    engine.side.rates.learn({"read_tokens_disk": 1, "read_seconds_disk": 1})
    assert engine.matched(FakeRequest(PLACED)) == 80


def test_images_and_foreign_adapters_do_not_have_places_computed(engine):
    placed(engine)
    foreign = SimpleNamespace(lora_name="not of ours")
    for request in (
        FakeRequest(PLACED, mm_features=[object()]),
        FakeRequest(PLACED, lora_request=foreign),
    ):
        assert engine.matched(request) == 80


def test_a_compact_is_not_saved_and_what_follows_it_is(engine):
    placed(engine)
    (save,) = engine.saves(FakeRequest(PLACED))
    assert [(piece.start, piece.end) for piece in save.pieces] == [(80, 140)]


def test_a_request_that_ended_with_an_error_saves_nothing(engine):
    placed(engine)
    request = FakeRequest(PLACED)
    request.status = SimpleNamespace(name="FINISHED_ERROR")
    assert engine.saves(request) == []
