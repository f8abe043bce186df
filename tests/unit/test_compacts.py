"""Compacts without an engine: the closed form, ids of places, notes, loads that must not fail silently."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.compacts import Compact, CompactNotes, place_tokens, text_key
from memos_vllm.activation.hits import Hits, Loaded, hits_of
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.orders import Orders, Source, has_places, read_orders
from memos_vllm.activation.rotation import Rotation
from memos_vllm.compacts.make import places_for
from memos_vllm.compacts.match import match
from memos_vllm.errors import NotBuilt, Unprocessable

MODEL = b"model"
SEGMENT = "0123456789abcdef/scope/" + "a" * 40
COMPACT = Compact(SEGMENT, "cube_1@2", "d" * 64, places=8, tokens=32, start=5, method="match")


# -- attention matching ----------------------------------------------------------------------------


def reads(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mass, average of the values) that each query reads, for one KV head."""
    logits = queries @ keys.T
    return logits.logsumexp(-1), logits.softmax(-1) @ values


def asked(count: int, size: int, heads: int) -> torch.Tensor:
    """Queries that agree in a direction, as those of a head do."""
    torch.manual_seed(1)
    scale = size**-0.5
    return scale * (torch.randn(count, heads, size) + 2 * torch.linspace(-1, 1, size))


@pytest.mark.parametrize("heads", [1, 2])
def test_a_text_that_repeats_itself_is_matched_exactly(heads):
    """Each token stands four times: one place with four times the weight reads the same."""
    torch.manual_seed(0)
    size, distinct, copies = 32, 8, 4
    keys = torch.randn(distinct, heads, size).repeat(copies, 1, 1)
    values = torch.randn(distinct, heads, size).repeat(copies, 1, 1)
    queries = asked(400, size, 3 * heads)
    shares = torch.ones(queries.shape[:2])
    made = match(keys, values, queries, shares, distinct)
    for head in range(heads):
        for mine in range(3):
            each = queries[:, 3 * head + mine]
            mass, average = reads(each, keys[:, head], values[:, head])
            new_mass, new_average = reads(each, made[0][:, head], made[1][:, head])
            assert (mass - new_mass).abs().mean() < 0.2, "log 4 = 1.4 without the factors"
            assert (average - new_average).norm() / average.norm() < 0.1


def test_matched_places_read_nearer_to_the_text_than_its_most_read_tokens():
    torch.manual_seed(2)
    size, tokens, places = 64, 200, 40
    keys, values = torch.randn(tokens, 1, size), torch.randn(tokens, 1, size)
    queries = asked(1000, size, 1)
    seen, unseen = queries[:700], queries[700:, 0]
    made_keys, made_values = match(keys, values, seen, torch.ones(700, 1), places)
    mass, average = reads(unseen, keys[:, 0], values[:, 0])
    weight = (seen[:, 0] @ keys[:, 0].T).softmax(-1).square().mean(0)
    best = weight.topk(places).indices
    cut_mass, cut_average = reads(unseen, keys[best, 0], values[best, 0])
    new_mass, new_average = reads(unseen, made_keys[:, 0], made_values[:, 0])
    assert (mass - new_mass).abs().mean() < 0.3 * (mass - cut_mass).abs().mean()
    assert (average - new_average).norm() < 0.7 * (average - cut_average).norm()


def test_every_tensor_is_made_on_the_device_of_its_inputs():
    """As on a GPU, where a tensor on the default device would not fit the others."""
    keys, values = torch.randn(20, 1, 8), torch.randn(20, 1, 8)
    queries, shares = asked(3000, 8, 2), torch.ones(3000, 2)
    rotate = Rotation(torch.ones(4, dtype=torch.float64)).by(3)
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        made, _ = match(keys, values, queries, shares, 5)
        rotate(made)
    finally:
        torch.set_default_device(before)
    assert made.isfinite().all()


def test_what_is_hardly_read_counts_little():
    """Queries whose attention is elsewhere do not decide which tokens stay."""
    size, tokens = 16, 30
    keys = torch.eye(tokens, size).repeat(1, 1)[:, None] * 6
    values = torch.randn(tokens, 1, size)
    wanted, unwanted = torch.zeros(50, 1, size), torch.zeros(50, 1, size)
    wanted[..., 3], unwanted[..., 9] = 4.0, 4.0
    queries = torch.cat([wanted, unwanted])
    shares = torch.cat([torch.ones(50, 1), torch.zeros(50, 1)])
    made, _ = match(keys, values, queries, shares, 1)
    assert made[0, 0].argmax() == 3


@pytest.mark.parametrize(
    ("ratio", "places", "expected"), [(4, None, 25), (8, 30, 30), (64, None, 4)]
)
def test_the_number_of_places(ratio, places, expected):
    assert places_for(100, ratio, places) == expected


@pytest.mark.parametrize(("ratio", "places"), [(4, 100), (1.001, None)])
def test_as_many_places_as_tokens_are_refused(ratio, places):
    with pytest.raises(Unprocessable, match="no shorter"):
        places_for(100, ratio, places)


def test_a_rotation_takes_the_keys_to_the_shorter_prompt():
    """What counts is the distance of question and key: both move by as many tokens."""
    rotation = Rotation(1.0 / 10_000.0 ** (torch.arange(0, 16, 2, dtype=torch.float64) / 16))
    key, query = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    far = (rotation.by(120)(query) * rotation.by(60)(key)).sum()
    near = (rotation.by(40)(query) * rotation.by(-80)(rotation.by(60)(key))).sum()
    assert torch.allclose(far, near, atol=1e-4)


# -- places and notes ------------------------------------------------------------------------------


def test_ids_of_places_name_the_kv_and_are_ordinary_tokens():
    special = frozenset(range(0, 100, 2))
    ids = place_tokens("digest", 500, 100, special)
    assert ids == place_tokens("digest", 500, 100, special)
    assert not special & set(ids)
    assert ids[:50] == place_tokens("digest", 50, 100, special)
    assert ids != place_tokens("another", 500, 100, special)


def test_a_note_is_of_one_text_of_one_cube_in_one_scope(tmp_path):
    keys = {
        text_key(model, scope, cube, text)
        for model in (b"one", b"two")
        for scope in ("scope", "other")
        for cube in ("cube_1", "cube_2")
        for text in ("a", "b")
    }
    assert len(keys) == 16
    assert text_key(MODEL, "scope/salt", "c", "t") == text_key(MODEL, "scope", "c", "t")
    notes = CompactNotes(tmp_path / "compacts")
    assert notes.read("cube_1", "a") is None
    assert not list(notes.all())
    with_ranks = dataclasses.replace(COMPACT, ranks=("0of2", "1of2"), kl=0.1, recall=0.9)
    notes.write("a", with_ranks)
    assert notes.read("cube_1", "a") == with_ranks
    assert notes.of_cube("cube_1", None) == [with_ranks]
    assert notes.of_cube("cube_1", ["elsewhere"]) == []
    assert notes.of_cube("cube", None) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"segment": 1}', '{"ranks": 3}', "null"])
def test_a_damaged_note_is_none(tmp_path, content):
    notes = CompactNotes(tmp_path)
    notes.write("a", COMPACT)
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    path.write_text(content)
    assert notes.read("cube_1", "a") is None
    assert not list(notes.all())
    assert not notes.of_cube("cube_1", None)


def test_a_cube_and_a_scope_take_their_notes_along(tmp_path):
    notes = CompactNotes(tmp_path)
    elsewhere = str(SegmentName("0123456789abcdef", "elsewhere", "b" * 40))
    notes.write("a", COMPACT)
    notes.write("b", dataclasses.replace(COMPACT, cube="cube_10@1"))
    notes.write("c", dataclasses.replace(COMPACT, cube="cube_3@1", segment=elsewhere))
    notes.forget("cube_1")
    assert {text for text, _ in notes.all()} == {"b", "c"}
    notes.forget_scope("elsewhere")
    assert {text for text, _ in notes.all()} == {"b"}


def test_cached_tokens_tell_of_places():
    found = hits_of(90, [Loaded(20, 80, "memory")], head=70, compact=[(40, 70)])
    assert found == [
        Hits("exact", "engine", 20),
        Hits("exact", "memory", 20),
        Hits("compact", "memory", 30),
        Hits("conversation", "memory", 10),
        Hits("conversation", "engine", 10),
    ]


def test_orders_carry_compacts():
    source = Source(1, "scope", "key", 5)
    orders = Orders((Segment(10, "s"), Segment(20, "s", ("a@1",))), compact=(source,))
    params = orders.to_params()
    read = read_orders(params)
    assert read is not None
    assert read.compact == (source,)
    assert read.save
    assert has_places(params)
    for none in (None, {}, {"memos": 3}, Orders((Segment(10, "s"),)).to_params()):
        assert not has_places(none)


# -- the gateway -----------------------------------------------------------------------------------


@dataclasses.dataclass
class FakeChoice:
    """A fake of a completion of vLLM."""

    token_ids: list[int]
    finish_reason: str | None = None
    index: int = 0


class FakeEngine:
    """A fake of the engine client: gives the outputs of its list, one list for each request."""

    def __init__(self, *replies: list[FakeChoice]) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[Any, Any, str]] = []
        self.closed = 0

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> Any:
        self.asked.append((prompt, params, request_id))
        try:
            for choice in self.replies.pop(0):
                finished = choice.finish_reason is not None
                yield SimpleNamespace(outputs=[choice], finished=finished, kv_transfer_params=None)
        finally:
            self.closed += 1

    def encode(self, *_: Any, **__: Any) -> None:
        raise AssertionError


@dataclasses.dataclass
class FakeParams:
    extra_args: dict[str, Any] | None = None
    max_tokens: int | None = 7

    def clone(self) -> FakeParams:
        return FakeParams(dict(self.extra_args or {}), self.max_tokens)


def replied(engine: FakeEngine, prompt: list[int]) -> tuple[list[list[int]], Any]:
    """(tokens of each output, the call) of a request with places [7, 7] in place of the text [1, 2, 3]."""
    pytest.importorskip("vllm", reason="the gateway is vLLM's: make venv")
    from memos_vllm.engine import gateway

    text = gateway.TextPrompt([1, 2, 3], {"memos": {"segments": []}}, [7, 7], 9)
    call = gateway.EngineCall(text=text, private_salt="p", kv_orders={"memos": {"compact": [1]}})

    async def run() -> list[list[int]]:
        gateway.install(engine, gateway.Salter(b"s" * 32, "person", False))
        gateway.CALL.set(call)
        params = FakeParams()
        outputs = engine.generate({"prompt_token_ids": prompt}, params, "r")
        return [output.outputs[0].token_ids async for output in outputs]

    return asyncio.run(run()), call


def test_a_request_whose_places_are_not_loaded_is_repeated_with_the_text():
    lost = [FakeChoice([], "error")]
    engine = FakeEngine(lost, [FakeChoice([5]), FakeChoice([6], "stop")])
    tokens, call = replied(engine, [7, 7])
    assert tokens == [[5], [6]]
    assert call.text.is_used
    (first, _, _), (second, params, name) = engine.asked
    assert (first["prompt_token_ids"], second["prompt_token_ids"]) == ([7, 7], [1, 2, 3])
    assert first["cache_salt"] != second["cache_salt"]
    assert params.extra_args["kv_transfer_params"] == {"memos": {"segments": []}}
    assert name != "r"
    assert params.max_tokens == 9 - 3, "the longer prompt leaves less room"
    assert engine.closed == 2


def test_behind_the_first_token_an_error_is_the_clients():
    engine = FakeEngine([FakeChoice([5]), FakeChoice([], "error")])
    tokens, call = replied(engine, [7, 7])
    assert tokens == [[5], []]
    assert not call.text.is_used
    assert len(engine.asked) == 1


def test_a_handler_that_sends_the_text_gets_no_places():
    engine = FakeEngine([FakeChoice([5], "stop")])
    tokens, call = replied(engine, [1, 2, 3])
    assert tokens == [[5]]
    assert call.text.is_used
    assert call.private_salt is None
    sent = engine.asked[0][1].extra_args["kv_transfer_params"]
    assert not has_places(sent)


def test_a_prompt_that_is_neither_is_refused():
    with pytest.raises(NotBuilt, match="changes its prompt"):
        replied(FakeEngine([]), [7, 7, 9])


# -- a connector that loads nothing ----------------------------------------------------------------


def test_without_activation_memory_a_request_with_places_ends():
    """The engine may know better than the server that its KV cannot be carried."""
    pytest.importorskip("vllm", reason="the connector is vLLM's: make venv")
    from memos_vllm.engine.kv.connector import MemosConnector
    from memos_vllm.engine.patches import required_loads

    connector = MemosConnector.__new__(MemosConnector)
    connector._scheduler = None
    with_places = Orders((Segment(9, "s"),), compact=(Source(0, "s", "k", 0),)).to_params()
    plain = SimpleNamespace(request_id="p", kv_transfer_params=None)
    placed = SimpleNamespace(request_id="r", kv_transfer_params=with_places)
    assert connector.get_num_new_matched_tokens(plain, 0) == (0, False)
    assert connector.get_num_new_matched_tokens(placed, 0) == (None, False), "asked again later"
    assert required_loads._refused == {"r"}
    required_loads._refused.clear()


def test_what_is_refused_ends_with_the_step(monkeypatch):
    pytest.importorskip("vllm", reason="the scheduler is vLLM's: make venv")
    from vllm.v1.engine import FinishReason
    from vllm.v1.request import RequestStatus

    from memos_vllm.engine.patches import required_loads

    ended: list[tuple[str, Any]] = []

    class FakeScheduler:
        """A fake of vLLM's scheduler, with a request that waits and one that was aborted meanwhile."""

        def __init__(self) -> None:
            request = SimpleNamespace(request_id="r", client_index=3)
            request.get_finished_reason = lambda: FinishReason.ERROR
            self.requests = {"r": request}

        def finish_requests(self, ids: list[str], status: Any) -> None:
            ended.extend((each, status) for each in ids)

        def update_from_output(self) -> dict[int, Any]:
            return {}

    scheduler = FakeScheduler()
    update = required_loads._ending(FakeScheduler.update_from_output)
    assert update(scheduler) == {}
    required_loads.refuse("r")
    required_loads.refuse("gone")
    outputs = update(scheduler)
    assert ended == [("r", RequestStatus.FINISHED_ERROR)]
    assert [each.request_id for each in outputs[3].outputs] == ["r"]
    assert update(scheduler) == {}, "once"
