"""The load that memory is measured under: what is scheduled, and what a latency is counted from."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory_load.data import workload
from benchmarks.memory_load.load import CONNECTIONS, Failed, arrivals, offer, summary
from benchmarks.record import ROOT


def test_a_schedule_has_its_rate_and_is_the_same_for_every_system():
    due = arrivals(40, 5.0)
    assert len(due) == 200
    assert due == sorted(due) == arrivals(40, 5.0)
    assert due[0] >= 0 <= 5.0 - due[-1]
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert max(gaps) > 2 * min(gaps)


def test_time_in_the_queue_counts():
    """A server that does one request at a time, each slower than they arrive."""

    async def run() -> list[float]:
        one_at_a_time = asyncio.Lock()

        async def request(number: int) -> None:
            async with one_at_a_time:
                await asyncio.sleep(0.05)

        return [outcome.latency_ms for outcome in await offer([0.0] * 10, request)]

    latencies = asyncio.run(run())
    assert max(latencies) >= 10 * 50
    assert min(latencies) >= 50


def test_time_before_a_connection_is_free_counts():
    async def run() -> list[float]:
        async def request(number: int) -> None:
            await asyncio.sleep(0.05)

        due = [0.0] * (CONNECTIONS + 1)
        return sorted(outcome.latency_ms for outcome in await offer(due, request))

    latencies = asyncio.run(run())
    assert latencies[-1] >= 2 * 50


def test_what_fails_or_times_out_is_counted_with_its_time():
    answered: list[int] = []

    async def request(number: int) -> None:
        if number == 0:
            raise Failed("status 503")
        if number == 1:
            await asyncio.sleep(0.5)
            answered.append(number)

    outcomes = asyncio.run(offer([0.0, 0.0, 0.0, 0.0], request, timeout_seconds=0.2))
    assert [outcome.error for outcome in outcomes[2:]] == [None, None]
    assert outcomes[0].error == "status 503"
    assert "no answer" in str(outcomes[1].error)
    assert answered == [1], "what nobody waits for any more would run into the next load"
    found = summary(outcomes, seconds=0.1)
    assert found["success_rate"] == 0.5
    assert found["ms_p99"] >= 150
    assert found["rate_achieved"] <= 10


def test_people_who_are_added_to_are_not_those_who_are_searched():
    load = workload(None, quick=False)
    assert not {person for person, _ in load.added} & {one.name for one in load.stored}
    for one in load.stored:
        there = {turn.id for turn in one.turns}
        assert all(there.issuperset(question.evidence) for question in one.questions)


@pytest.mark.slow
def test_memory_load_quick_answers_every_request(tmp_path: Path):
    out = tmp_path / "record.json"
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_load", "--quick", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "mem0 is not measured" in answer.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    load = [row for row in record["rows"] if row["part"] == "load"]
    assert {row["operation"] for row in load} == {"add", "search"}
    assert {row["success_rate"] for row in load} == {1.0}
    assert "ours_search_ms_p50" in record["headline"]
