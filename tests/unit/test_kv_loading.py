"""Loading layer by layer while a step computes: its waits, and the cost of a damaged file."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiKVConnectorStats

from memos_vllm.activation.direct_io import FileBytes, forget_pages
from memos_vllm.activation.erase import SUFFIX
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import SegmentName
from memos_vllm.engine.kv.connector import MemosConnector
from memos_vllm.engine.kv.loading import Loader
from memos_vllm.engine.kv.messages import Load, Piece, StepOrders
from memos_vllm.engine.kv.progress import Progress, finishing
from memos_vllm.engine.kv.rates import Rates
from memos_vllm.engine.kv.states import Finished, When
from memos_vllm.engine.kv.stats import KVStats
from memos_vllm.engine.kv.worker_side import WorkerSide
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_reading import share
from tests.unit.test_kv_store import open_keeper

LAYERS, TOKENS, BLOCK = 3, 16, 4


class Cache:
    """A fake of the engine's paged cache: all tokens in one tensor."""

    layers, block_size, device = LAYERS, BLOCK, torch.device("cpu")

    def __init__(self) -> None:
        self.kv = torch.zeros(LAYERS, 2, 64, 2, 8)
        self.before_layer = lambda layer: None

    def shape(self, tokens: int) -> Shape:
        return Shape(LAYERS, tokens, 2, 8, torch.float32)

    def slots(self, block_ids, start: int, end: int) -> torch.Tensor:
        return torch.arange(start, end)

    def write(self, layer: int, slots, k, v) -> None:
        self.before_layer(layer)
        self.kv[layer, 0, slots], self.kv[layer, 1, slots] = k, v

    def position(self, name: str) -> int | None:
        return int(name) if name.isdigit() else None


def pieces_of(count: int) -> tuple[Piece, ...]:
    return tuple(
        Piece(
            SegmentName("model", "scope", f"k{i}"),
            i * TOKENS,
            (i + 1) * TOKENS,
            ("a@1",),
            f"digest{i}",
        )
        for i in range(count)
    )


def load_of(count: int, start: int = 0) -> Load:
    end = count * TOKENS
    return Load("request", tuple(range(end // BLOCK)), start, end, pieces_of(count), When.IN_STEP)


@pytest.fixture
def keeper(tmp_path):
    keeper = open_keeper(tmp_path, ram_bytes=0)
    for i, piece in enumerate(pieces_of(3)):
        shape = Shape(LAYERS, TOKENS, 2, 8, torch.float32)
        about = {"digest": piece.digest}
        assert keeper.add(piece.name, shape, layers_of(shape, i), piece.cubes, about)
    return keeper


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture(params=[0, 4096, 1 << 20], ids=["one by one", "in pairs", "all together"])
def together(request, monkeypatch) -> None:
    """Bytes of a layer that are written together; a segment's layer has 2,048."""
    monkeypatch.setattr("memos_vllm.engine.kv.loading._RUN_BYTES", request.param)


@pytest.fixture(params=[1, 3], ids=lambda threads: f"{threads} threads")
def loader(keeper, cache, together, request):
    loader = Loader(keeper, cache, lambda piece: piece.name, None, threads=request.param)
    yield loader
    loader.close()


def open_segments() -> list[Path]:
    """Segment files that this process has open."""
    opened = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [path for path in opened if path.name.endswith(SUFFIX)]


def kept(count: int) -> torch.Tensor:
    """(layers, 2, tokens, heads, head_dim) of the first segments, one behind the other."""
    shape = Shape(LAYERS, TOKENS, 2, 8, torch.float32)
    return torch.cat([torch.stack(layers_of(shape, i)) for i in range(count)], dim=2)


def test_all_layers_of_all_segments_are_written(loader, cache):
    counts = Counter()
    assert loader.load(load_of(3, start=5), counts) == 3 * TOKENS
    assert torch.equal(cache.kv[:, :, 5:48], kept(3)[:, :, 5:])
    assert not cache.kv[:, :, :5].any()
    assert counts["loaded_tokens_disk"] == 43
    assert counts["read_tokens_disk"] == 48
    assert counts["loaded_segments"] == 3
    assert counts["read_seconds_disk"] > 0


def test_more_segments_than_may_be_open_at_once(loader, cache, monkeypatch):
    monkeypatch.setattr("memos_vllm.engine.kv.loading._OPEN_AT_ONCE", 2)
    progress = Progress()
    seen = []
    cache.before_layer = lambda layer: seen.append((layer, len(progress._written)))
    assert loader.load(load_of(3), Counter(), progress) == 3 * TOKENS
    assert torch.equal(cache.kv[:, :, :48], kept(3))
    before_the_last = [written for _, written in seen[:-LAYERS]]
    assert len(before_the_last) >= LAYERS
    assert set(before_the_last) == {0}, "nothing is whole before the last group"


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("damaged", range(3))
def test_segments_before_a_damaged_one_are_loaded(loader, keeper, cache, damaged, layer):
    path = keeper.segments.disk.path(str(pieces_of(3)[damaged].name))
    content = bytearray(path.read_bytes())
    layer_bytes = cache.shape(TOKENS).layer_bytes
    content[len(content) - (LAYERS - layer) * layer_bytes + 7] ^= 1
    path.write_bytes(content)
    counts = Counter()
    assert loader.load(load_of(3), counts) == damaged * TOKENS
    assert torch.equal(cache.kv[:, :, : damaged * TOKENS], kept(3)[:, :, : damaged * TOKENS])
    assert not path.exists(), "a whole one can take its place"
    assert counts["loaded_tokens_disk"] == damaged * TOKENS
    assert keeper.segments.disk.path(str(pieces_of(3)[(damaged + 1) % 3].name)).exists()


def test_keys_are_rotated_by_the_shift_of_their_segment(keeper, cache, together):
    class Rotation:
        def by(self, shift: int):
            return lambda keys: keys + shift

    loader = Loader(keeper, cache, lambda piece: piece.name, Rotation())
    shifts = (5, 0, 7)
    pieces = [
        dataclasses.replace(piece, shift=shift)
        for piece, shift in zip(pieces_of(3), shifts, strict=True)
    ]
    load = dataclasses.replace(load_of(3, start=3), end=45, pieces=tuple(pieces))
    assert loader.load(load, Counter()) == 45
    expected = kept(3)
    for i, shift in enumerate(shifts):
        expected[:, 0, i * TOKENS : (i + 1) * TOKENS] += shift
    assert torch.equal(cache.kv[:, :, 3:45], expected[:, :, 3:45])
    assert not cache.kv[:, :, 45:].any()
    loader.close()


def test_segments_on_disk_are_read_past_the_page_cache(keeper, cache):
    paths = [keeper.segments.disk.path(str(piece.name)) for piece in pieces_of(3)]
    for path in paths:
        forget_pages(path)
    if any(share(path) for path in paths):
        pytest.skip("this file system keeps files in memory")
    with FileBytes(paths[0], past_cache=True) as file:
        if file._direct is None:
            pytest.skip("this file system is always read through the system's cache")
    loader = Loader(keeper, cache, lambda piece: piece.name, None)
    assert loader.load(load_of(3), Counter()) == 3 * TOKENS
    loader.close()
    assert torch.equal(cache.kv[:, :, :48], kept(3))
    assert [share(path) for path in paths] == [0, 0, 0]


def test_small_segments_of_one_tier_are_written_together(keeper, cache, monkeypatch):
    monkeypatch.setattr("memos_vllm.engine.kv.loading._RUN_BYTES", 4096)
    seen = []
    cache.before_layer = seen.append
    loader = Loader(keeper, cache, lambda piece: piece.name, None)
    assert loader.load(load_of(3), Counter()) == 3 * TOKENS
    assert seen == [0, 0, 1, 1, 2, 2], "a pair and the one that is left, layer by layer"
    loader.close()


def test_a_segment_that_is_wiped_meanwhile_ends_the_load(loader, keeper):
    keeper.segments.wipe_segment(pieces_of(3)[1].name)
    assert loader.load(load_of(3), Counter()) == TOKENS


def test_attention_waits_for_its_own_layer_alone():
    progress, passed = Progress(), []

    def layer(number: int) -> None:
        progress.wait(number)
        passed.append(number)

    threads = [threading.Thread(target=layer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    progress.written(1)
    threads[1].join(5)
    assert passed == [1]
    progress.written(0)
    threads[0].join(5)
    assert passed == [1, 0]
    with pytest.raises(OSError, match="broken"), finishing(progress):
        raise OSError("broken")
    threads[2].join(5)
    assert passed == [1, 0, 2], "a load that failed ends every wait"


def test_layers_are_loaded_in_parallel(keeper, cache):
    both = threading.Barrier(2, timeout=5)
    cache.before_layer = lambda layer: both.wait() if layer < 2 else None
    loader = Loader(keeper, cache, lambda piece: piece.name, None, threads=2)
    assert loader.load(load_of(3), Counter()) == 3 * TOKENS, "layers 0 and 1 waited for each other"
    assert torch.equal(cache.kv[:, :, :48], kept(3))
    loader.close()


def test_a_bug_in_one_layer_ends_the_load(loader, cache):
    tried = []

    def breaks(layer: int) -> None:
        tried.append(layer)
        raise RuntimeError("unforeseen")

    cache.before_layer = breaks
    counts = Counter()
    with pytest.raises(RuntimeError, match="unforeseen"):
        loader.load(load_of(3), counts)
    assert counts["loaded_segments"] == 0
    assert len(tried) <= len(loader._memories), "no thread takes a second layer"
    assert open_segments() == []


def test_a_bug_while_segments_are_opened_leaves_no_file_open(loader, cache, monkeypatch):
    def breaks(block_ids, start, end):
        if start:  # the first segment is open already
            raise RuntimeError("unforeseen")
        return torch.arange(start, end)

    monkeypatch.setattr(cache, "slots", breaks)
    with pytest.raises(RuntimeError, match="unforeseen"):
        loader.load(load_of(3), Counter())
    assert open_segments() == []


# -- the worker ------------------------------------------------------------------------------------


@pytest.fixture
def worker(keeper, cache):
    worker = WorkerSide(keeper, cache, "", None)
    yield worker
    worker.close()


def orders() -> StepOrders:
    return StepOrders(loads=[load_of(3)])


def test_a_step_computes_while_later_layers_are_loaded(worker, cache):
    first_is_computed = threading.Event()

    def wait(layer: int) -> None:
        if layer == 1:
            assert first_is_computed.wait(5), "layer 0 waited for layer 1"

    cache.before_layer = wait
    worker.step_begins(orders())
    worker.begin(orders())
    worker.wait_for_layer("0")
    assert torch.equal(cache.kv[0, :, :48], kept(3)[0])
    first_is_computed.set()
    for name in ("1", "2"):
        worker.wait_for_layer(name)
    worker.step_ends()
    assert worker.take_bad_blocks() == set()
    assert torch.equal(cache.kv[:, :, :48], kept(3))


def test_where_attention_does_not_wait_the_step_is_computed_again_and_later_loads_come_first(
    worker, cache
):
    worker.begin(orders())
    worker.wait_for_layer("0")
    worker.step_ends()
    assert worker.take_bad_blocks() == set(range(12))
    cache.kv.zero_()
    worker.begin(orders())
    assert torch.equal(cache.kv[:, :, :48], kept(3)), "it is there before anything is computed"
    worker.step_ends()
    assert worker.take_bad_blocks() == set()


def test_blocks_of_a_failed_load_are_reported(worker, keeper):
    keeper.segments.wipe_segment(pieces_of(3)[1].name)
    worker.begin(orders())
    for name in ("0", "1", "2"):
        worker.wait_for_layer(name)
    worker.step_ends()
    assert worker.take_bad_blocks() == set(range(4, 12))
    counts = worker.take_counts()
    assert counts["load_failures"] == 1
    assert counts["loaded_tokens_disk"] == TOKENS


def test_only_steps_without_a_load_are_timed(worker):
    worker.take_counts()
    step = SimpleNamespace(loads=[], saves=[], prefill_tokens=100)
    worker.step_begins(step)
    worker.step_ends()
    counts = worker.take_counts()
    assert counts["prefill_tokens"] == 100
    assert counts["prefill_seconds"] > 0
    worker.step_begins(SimpleNamespace(**{**vars(step), "prefill_tokens": 7}))
    worker.begin(orders())
    worker.step_ends()
    assert "prefill_tokens" not in worker.take_counts()


def test_a_layer_that_shares_kv_waits_for_the_whole_load(worker, cache):
    worker.begin(orders())
    worker.wait_for_layer("shared")
    assert torch.equal(cache.kv[:, :, :48], kept(3))
    for name in ("0", "1", "2"):
        worker.wait_for_layer(name)
    worker.step_ends()
    assert worker.take_bad_blocks() == set()


@pytest.mark.parametrize("when", [When.IN_STEP, When.BETWEEN_STEPS])
@pytest.mark.parametrize("broken", ["open", "write"])
def test_a_bug_in_a_load_costs_its_tokens_and_not_the_engine(
    worker, cache, monkeypatch, when, broken
):
    def breaks(*_):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(cache, "slots" if broken == "open" else "before_layer", breaks)
    worker.begin(StepOrders(loads=[dataclasses.replace(load_of(3), when=when)]))
    in_step = when is When.IN_STEP
    if in_step:
        for name in ("0", "1", "2"):
            worker.wait_for_layer(name)
        worker.step_ends()
    else:
        worker._loads.submit(int).result(10)  # behind the load
    assert worker.take_bad_blocks() == set(range(12))
    loaded = frozenset() if in_step else frozenset({"request"})
    assert worker.take_finished() == Finished(loaded=loaded)
    assert worker.take_counts()["load_failures"] == 1


@pytest.mark.parametrize("prefetches", [True, False])
def test_segments_on_disk_are_prefetched_when_the_engine_starts(
    tmp_path, keeper, cache, prefetches
):
    keeper = open_keeper(tmp_path)
    worker = WorkerSide(keeper, cache, "", None, prefetches=prefetches)
    deadline = time.monotonic() + 10
    names = [piece.name for piece in pieces_of(3)]
    while prefetches and {keeper.segments.where(name) for name in names} != {"ram"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.close()
    assert {keeper.segments.where(name) for name in names} == {"ram" if prefetches else "disk"}


# -- the connector ---------------------------------------------------------------------------------


def test_rates_are_learnt_from_workers_with_one_connector_or_several():
    counts = KVStats(data={"prefill_tokens": 100, "prefill_seconds": 2.0})
    for stats in (counts, MultiKVConnectorStats(data={"MemosConnector": counts, "Other": counts})):
        connector = MemosConnector.__new__(MemosConnector)
        saved = []
        connector._scheduler = SimpleNamespace(rates=Rates(), saved=saved.append)
        output = SimpleNamespace(finished_sending={"a"}, kv_connector_stats=stats)
        connector.update_connector_output(output)
        assert connector._scheduler.rates.prefill.each == 0.02
        assert saved == [["a"]]
