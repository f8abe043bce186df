"""The TTFT benchmark as a smoke run on a server of other tests; it asserts no speed."""

from __future__ import annotations

from benchmarks.ttft import rightness, turns
from benchmarks.ttft.chat import Bench
from benchmarks.ttft.grid import Grid
from benchmarks.ttft.plot import plot
from tests.effort import long


def test_every_way_is_measured_and_drawn(restartable):
    grid = Grid(Bench(restartable), repetitions=1, prefills=1)
    grid.prepare({"small": 460})
    grid.run((40,))
    grid.run_from_disk((40,))
    rows = {row["way"]: row for row in grid.rows()}
    loaded = {way: row["cached_tokens"] for way, row in rows.items()}
    assert loaded["full prefill"] == loaded["no memory"] == 0
    assert loaded["exact, RAM"] == loaded["exact, disk"] > 300
    assert loaded["near"] > 300
    assert rows["prefix cache warm"]["over_prefix_warm"] == 1
    assert plot(grid.rows()).count("<polyline") == 6


@long
def test_rightness_and_turns_are_measured(restartable, monkeypatch):
    monkeypatch.setattr(rightness, "TOP", 20)
    share, rows = rightness.identical_share(Bench(restartable), 1)
    assert rows[0]["loaded_tokens"] > 60
    assert 0 <= share <= 1
    _, near = rightness.nearness(Bench(restartable), 2)
    assert all(row["kl"] >= 0 for row in near)
    monkeypatch.setattr(turns, "TOPICS", turns.TOPICS[:4])
    monkeypatch.setattr(turns, "REPLY_TOKENS", 40)
    shares, rows = turns.ten_turns(Bench(restartable))
    assert len(rows) == 8
    assert shares["ten_turn_cached_share_ours"] > shares["ten_turn_cached_share_system_prompt"]


def test_divergence_is_zero_for_the_same_and_grows():
    full = {"a": -0.1, "b": -3.0}
    assert rightness.divergence(full, dict(full)) == 0
    near, far = {"a": -0.2, "b": -2.5}, {"a": -2.0, "b": -0.3}
    assert 0 < rightness.divergence(full, near) < rightness.divergence(full, far)
