"""Copies beside the engine's steps wait for the steps that were launched before, on the device.

No CPU has streams: `torch.cuda`'s are replaced by ones that note what is asked of them. What a step that is in
flight writes into a block must not come behind the KV that is loaded into it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memos_vllm.engine.kv.device import CopyStream, launched
from memos_vllm.engine.kv.messages import StepOrders
from memos_vllm.engine.kv.states import When
from memos_vllm.engine.kv.worker_side import WorkerSide
from tests.unit.test_kv_loading import Cache, keeper, load_of  # noqa: F401

CUDA = SimpleNamespace(type="cuda")


class Streams:
    """`torch.cuda`'s streams and events, by thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.current = threading.local()

    def Stream(self, device: Any) -> Any:
        stream = SimpleNamespace(device=device)
        stream.wait_event = lambda event: self.calls.append(("waits", event))
        stream.synchronize = lambda: self.calls.append(("synchronized", stream))
        return stream

    def Event(self) -> Any:
        event = SimpleNamespace()
        event.record = lambda: self.calls.append(("recorded", event))
        return event

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current.stream = getattr(self.current, "stream", None), stream
        try:
            yield
        finally:
            self.current.stream = before


@pytest.fixture
def streams(monkeypatch) -> Streams:
    made = Streams()
    for name in ("Stream", "Event", "stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


class DeviceCache(Cache):
    """A fake of a paged cache on a device with streams, in this machine's memory."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    @property
    def device(self) -> Any:
        return CUDA if threading.current_thread().name == "engine" else torch.device("cpu")

    def write(self, layer: int, slots, k, v) -> None:
        self._streams.calls.append(("write", getattr(self._streams.current, "stream", None)))
        super().write(layer, slots, k, v)


def test_on_a_cpu_there_are_no_streams(streams):
    stream = CopyStream(torch.device("cpu"))
    assert launched(torch.device("cpu")) is None
    with stream.used():
        stream.after(object())
        stream.synchronize()
    assert streams.calls == []


@pytest.mark.parametrize("when", [When.IN_STEP, When.BETWEEN_STEPS])
def test_a_load_waits_for_what_was_launched_before_and_is_over_when_it_is_copied(
    keeper,  # noqa: F811
    streams,
    when,
    monkeypatch,
):
    monkeypatch.setattr(threading.current_thread(), "name", "engine")
    monkeypatch.setattr("memos_vllm.activation.direct_io.torch.empty", unpinned)
    cache = DeviceCache(streams)
    worker = WorkerSide(keeper, cache, "", None)
    load = load_of(3)
    load = type(load)(load.request_id, load.block_ids, load.start, load.end, load.pieces, when)
    try:
        worker.begin(StepOrders(loads=(load,)))
        worker.step_ends()
        until = time.monotonic() + 30
        while when is When.BETWEEN_STEPS and not worker.take_finished().loaded:
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        worker.close()
    names = [name for name, _ in streams.calls]
    recorded = names.index("recorded")
    assert streams.calls[recorded + 1] == ("waits", streams.calls[recorded][1])
    written = [stream for name, stream in streams.calls if name == "write"]
    assert written
    assert None not in written
    assert len({id(stream) for stream in written}) == 1, "one stream, so copies stay in order"
    last_write = len(names) - 1 - names[::-1].index("write")
    assert recorded + 1 < names.index("write")
    assert "synchronized" in names[last_write:]
    assert not worker.take_bad_blocks()


_empty = torch.empty


def unpinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
    """`torch.empty` without pages that a device must lock."""
    return _empty(*args, **kwargs)
