"""A streamed reply's last chunk, and the storing of its turn."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("vllm", reason="the stream is the engine's")

from memos_vllm.engine.chat.stream import StreamWatch, pass_through

TEXT = (
    'data: {"id":"r-1","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
)
LAST = 'data: {"id":"r-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = "data: [DONE]\n\n"


def passed(*chunks: str) -> tuple[list[str], list[str]]:
    """The chunks that come out, and what happened in order."""
    happened: list[str] = []

    async def source():
        for chunk in chunks:
            yield chunk

    async def complete() -> None:
        happened.append("complete")

    def memory() -> dict[str, bool]:
        return {"written": "complete" in happened}

    async def run() -> list[str]:
        stream = pass_through(
            source(),
            watch=StreamWatch(1, with_usage=False),
            memory=memory,
            complete=complete,
            abandon=lambda: happened.append("abandon"),
        )
        return [chunk async for chunk in stream]

    return asyncio.run(run()), happened


def test_the_last_chunk_says_whether_the_turn_is_stored():
    out, happened = passed(TEXT, LAST, DONE)
    assert out[0] == TEXT
    assert out[2] == DONE
    assert json.loads(out[1][6:])["memory"] == {"written": True}
    assert happened == ["complete"]


def test_a_stream_without_a_last_chunk_completes_at_its_end():
    assert passed(TEXT, DONE) == ([TEXT, DONE], ["complete"])


def test_a_stream_that_breaks_off_is_abandoned():
    assert passed(TEXT) == ([TEXT], ["abandon"])
