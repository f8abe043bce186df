"""Tokens of a request, counted where it passes into the engine, and its priority."""

from __future__ import annotations

import asyncio
import contextlib
import types

from memos_vllm.config.limits import FairnessConfig
from memos_vllm.engine import gateway
from memos_vllm.governance.limits.fairness import FairQueue
from memos_vllm.governance.limits.meter import METER, Meter

SALTER = gateway.Salter(b"s" * 32, "person", False)


def output(*replies, prompt=(1, 2, 3), finished=False):
    choices = [types.SimpleNamespace(index=n, token_ids=ids) for n, ids in enumerate(replies)]
    return types.SimpleNamespace(
        prompt_token_ids=list(prompt), outputs=choices, finished=finished, num_cached_tokens=0
    )


class FakeOutputs:
    """An engine that gives these outputs, then raises, or waits for ever."""

    def __init__(self, outputs, then=None):
        self.outputs, self.then = outputs, then
        self.kwargs = None

    async def generate(self, prompt, sampling_params, request_id, **kwargs):
        self.kwargs = kwargs
        for each in self.outputs:
            yield each
        if isinstance(self.then, Exception):
            raise self.then
        if self.then == "wait":
            await asyncio.Event().wait()

    encode = generate


def counted(engine, kind, prompt="text", stop_after=None):
    gateway.install(engine, SALTER, FairQueue(FairnessConfig()))
    meter = Meter()

    async def run():
        METER.set(meter)
        params = types.SimpleNamespace(
            extra_args=None, output_kind=types.SimpleNamespace(name=kind)
        )
        outputs = engine.generate(prompt, params, "r", priority=-5)
        try:
            async with asyncio.timeout(stop_after):
                async for _ in outputs:
                    pass
        finally:
            await outputs.aclose()

    with contextlib.suppress(TimeoutError, RuntimeError):
        asyncio.run(run())
    return meter.prompt_tokens, meter.reply_tokens, meter.unfinished


def test_tokens_are_counted_for_every_kind_of_output():
    streamed = [output([7]), output([8, 9], [5]), output([], [6], finished=True)]
    assert counted(FakeOutputs(streamed), "DELTA") == (3, 5, 0)
    whole = [output([7, 8, 9], [5, 6], finished=True)]
    assert counted(FakeOutputs(whole), "FINAL_ONLY") == (3, 5, 0)
    growing = [output([7]), output([7, 8]), output([7, 8, 9], finished=True)]
    assert counted(FakeOutputs(growing), "CUMULATIVE") == (3, 3, 0)


def test_a_cancelled_generation_counts_its_prompt_and_is_marked_where_its_reply_is_unknown():
    prompt = {"prompt_token_ids": [1] * 50}
    assert counted(FakeOutputs([], "wait"), "FINAL_ONLY", prompt, 0.05) == (50, 0, 1)
    assert counted(FakeOutputs([output([7])], "wait"), "DELTA", prompt, 0.05) == (50, 1, 0)


def test_a_generation_that_the_engine_refuses_counts_nothing():
    prompt = {"prompt_token_ids": [1] * 50}
    for kind in ("FINAL_ONLY", "DELTA"):
        engine = FakeOutputs([], RuntimeError("refused"))
        assert counted(engine, kind, prompt) == (0, 0, 0)


def test_a_clients_priority_does_not_reach_the_engine():
    engine = FakeOutputs([])
    counted(engine, "DELTA")
    assert engine.kwargs["priority"] == 0
