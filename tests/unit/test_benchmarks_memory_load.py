"""Load generator of the memory benchmark: schedule, latencies, rivals."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.locomo_retrieval.dataset import Turn
from benchmarks.memory_load.__main__ import _headline, rivals
from benchmarks.memory_load.data import workload
from benchmarks.memory_load.load import CONNECTIONS, Failed, arrivals, offer, summary
from benchmarks.memory_load.memos_worker import People, create_app
from benchmarks.memory_load.systems import Ours, Reference
from benchmarks.memory_tables import memory_load
from benchmarks.record import ROOT
from tests.effort import long


def test_a_schedule_has_its_rate_and_is_equal_for_all_systems():
    due = arrivals(40, 5.0)
    assert len(due) == 200
    assert due == sorted(due) == arrivals(40, 5.0)
    assert due[0] >= 0 <= 5.0 - due[-1]
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert max(gaps) > 2 * min(gaps)


def test_latency_includes_the_time_in_the_queue():
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


def test_latency_includes_the_wait_for_a_connection():
    async def run() -> list[float]:
        async def request(number: int) -> None:
            await asyncio.sleep(0.05)

        due = [0.0] * (CONNECTIONS + 1)
        return sorted(outcome.latency_ms for outcome in await offer(due, request))

    latencies = asyncio.run(run())
    assert latencies[-1] >= 2 * 50


def test_failures_and_timeouts_are_counted_with_their_time():
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
    assert answered == [1], "an abandoned request would run into the next load"
    found = summary(outcomes, seconds=0.1)
    assert found["success_rate"] == 0.5
    assert found["ms_p99"] >= 150
    assert found["rate_achieved"] <= 10


def test_people_with_adds_and_people_with_searches_are_disjoint():
    load = workload(None, quick=False)
    assert not {person for person, _ in load.added} & {one.name for one in load.stored}
    for one in load.stored:
        there = {turn.id for turn in one.turns}
        assert all(there.issuperset(question.evidence) for question in one.questions)


def test_the_processor_time_of_a_system_includes_its_children():
    burn = "import time\nwhile time.process_time() < 0.5:\n    pass\n"
    child = f"{burn}print('burnt', flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); input()"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        system, own = Ours(process, {"port": 1}), psutil.Process(process.pid)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert sum(own.cpu_times()[:2]) < 0.4 <= system.cpu_seconds()
        process.stdin.write("\n")
        process.stdin.flush()
        while own.children():
            time.sleep(0.01)
        assert system.cpu_seconds() >= 0.4, "ended children have used time, too"
        process.kill()


# -- rivals ---------------------------------------------------------------------------------------


def test_rivals_that_an_environment_lacks_are_named_and_the_others_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    package = tmp_path / "memos"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported, not only looked for')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert [kind.system.name for kind in rivals(Path(sys.executable))] == ["MemOS"]
    stderr = capsys.readouterr().err
    assert "mem0 is not measured" in stderr
    assert "MemOS is not measured" not in stderr


def test_without_an_environment_no_rival_is_measured(capsys: pytest.CaptureFixture[str]):
    assert rivals(None) == []
    stderr = capsys.readouterr().err
    assert "has mem0ai" in stderr
    assert "has MemoryOS" in stderr


class FakeStore:
    """A vector database that fails when two threads are inside."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.inside = threading.Lock()

    def add(self, items: list[Any]) -> None:
        self._work()
        self.items += items

    def search(self, vector: Any, top_k: int) -> list[Any]:
        self._work()
        return self.items[:top_k]

    def _work(self) -> None:
        assert self.inside.acquire(blocking=False), "another thread is inside"
        time.sleep(0.005)
        self.inside.release()


class FakeMemory:
    """The part of MemOS's GeneralTextMemory that the worker uses."""

    def __init__(self) -> None:
        self.vector_db = FakeStore()

    def add(self, items: list[dict[str, Any]]) -> None:
        self.vector_db.add(items)

    def search(self, query: str, top_k: int) -> list[Any]:
        found = self.vector_db.search(query, top_k)
        return [SimpleNamespace(model_dump=lambda mode, item=item: item) for item in found]


def _reference(opened: dict[str, FakeMemory]) -> Reference:
    """The client, speaking to the worker's routes without a process between them."""

    def open_memory(person: str) -> FakeMemory:
        assert person not in opened, "a folder has one client"
        return opened.setdefault(person, FakeMemory())

    transport = httpx.ASGITransport(create_app(People(open_memory)))
    system = Reference(SimpleNamespace(pid=os.getpid()), {"port": 1})
    system.http = httpx.AsyncClient(transport=transport, base_url="http://worker")
    return system


def test_the_reference_gives_turn_ids_back_and_each_person_only_their_own():
    opened: dict[str, FakeMemory] = {}

    async def run() -> None:
        system = _reference(opened)
        await system.add("ada", Turn("D1:1", "session_1", "Ada", "I like tea.", None))
        await system.add("ben", Turn("D1:2", "session_1", "Ben", "I like rain.", None))
        assert await system.search("ada", "What does Ada like?") == ["D1:1"]
        assert await system.search("ben", "What does Ben like?") == ["D1:2"]
        with pytest.raises(Failed, match="no turn was found"):
            await system.search("carl", "What does Carl like?")

    asyncio.run(run())
    assert opened["ada"].vector_db.items[0]["memory"] == "Ada: I like tea."


def test_one_thread_at_a_time_uses_the_store_of_a_person():
    opened: dict[str, FakeMemory] = {}
    turns = [Turn(f"D1:{n}", "session_1", "Ada", "Tea.", None) for n in range(20)]

    async def run() -> None:
        system = _reference(opened)
        await system.add("ada", turns[0])
        searches = (system.search("ada", "Tea?") for _ in turns)
        await asyncio.gather(*(system.add("ada", turn) for turn in turns[1:]), *searches)

    asyncio.run(run())
    assert len(opened["ada"].vector_db.items) == len(turns)


def test_the_reference_has_its_headline_and_its_columns():
    load = {"success_rate": 1.0, "ms_mean": 5.0, "ms_p50": 4.0, "ms_p90": 7.0, "ms_p99": 9.0}
    rows: list[dict[str, Any]] = []
    for system in ("memos_vllm", "MemOS"):
        rows += [
            {"part": "alone", "system": system, "add_ms_p50": 3.0, "search_ms_p50": 2.0}
            | {"recall_at_10": 0.5},
            {"part": "load", "operation": "add", "rate": 10, "system": system}
            | {"rate_achieved": 10.0, **load},
            {"part": "behind", "system": system, "search_ms_p50": 6.0},
        ]
    headline = _headline(rows)
    assert headline["reference_add_10_qps_success"] == 1.0
    assert headline["reference_recall_at_10"] == 0.5
    config = {"seconds_at_a_rate": 10.0, "timeout_seconds": 10.0}
    config |= {"people_searched": 3, "turns_stored": 30}
    table = memory_load({"rows": rows, "config": config})
    assert "| MemOS reference: success |" in table
    assert "MemOS reference: add 3 ms" in table


@long
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
    assert "MemOS is not measured" in answer.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    load = [row for row in record["rows"] if row["part"] == "load"]
    assert {row["operation"] for row in load} == {"add", "search"}
    assert {row["success_rate"] for row in load} == {1.0}
    assert "ours_search_ms_p50" in record["headline"]
