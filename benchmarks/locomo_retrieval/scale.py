"""Search latency of one person with 10,000 items."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.locomo_retrieval import ours
from benchmarks.locomo_retrieval.dataset import Conversation, Dataset, Turn
from memos_vllm.system import MemorySystem

ITEMS = 10_000
_WARM_UP = 5


async def measure(system: MemorySystem, dataset: Dataset, items: int, asked: int) -> dict[str, Any]:
    """Search a person whose memory repeats all conversations up to the number of items."""
    person = Conversation("one-person", tuple(_turns(dataset, items)), ())
    ours.remember(system, person)
    start = time.perf_counter()
    every = [question for one in dataset.conversations for question in one.questions]
    questions = every[:: max(1, len(every) // asked)][:asked]
    await ours.ask(system, person, questions[0])
    first_ms = (time.perf_counter() - start) * 1000
    for question in questions[:_WARM_UP]:
        await ours.ask(system, person, question)
    times = [(await ours.ask(system, person, question))[1] for question in questions]
    p50, p99 = (round(float(np.percentile(times, at)), 2) for at in (50, 99))
    return {
        "part": "scale",
        "items": items,
        "questions": len(questions),
        "search_ms_p50": p50,
        "search_ms_p99": p99,
        "first_search_ms": round(first_ms, 1),
    }


def _turns(dataset: Dataset, items: int) -> Iterator[Turn]:
    left, again = items, 0
    while left:
        for conversation in dataset.conversations:
            for turn in conversation.turns[:left]:
                session = f"{again} {conversation.name} {turn.session}"
                yield dataclasses.replace(turn, session=session, id=f"{session} {turn.id}")
            left -= min(left, len(conversation.turns))
        again += 1
