"""Rates that follow measurements, and the number of segments that are worth loading."""

from __future__ import annotations

import pytest

from memos_vllm.engine.kv.rates import Rate, Rates, SegmentRead


def rates(prefill: float, ram: float, disk: float) -> Rates:
    """Rates in seconds for 1000 tokens."""
    made = Rates()
    made.learn({"prefill_tokens": 1000, "prefill_seconds": prefill})
    made.learn({"read_tokens_ram": 1000, "read_seconds_ram": ram})
    made.learn({"read_tokens_disk": 1000, "read_seconds_disk": disk})
    return made


def test_without_a_measurement_everything_is_loaded():
    assert Rates().most_saving([SegmentRead(100, 100, "disk"), SegmentRead(100, 100, "ram")]) == 2
    assert Rates().most_saving([]) == 0


def test_a_slow_disk_is_not_read_and_memory_is():
    slow = rates(prefill=1, ram=0.01, disk=5)
    assert slow.most_saving([SegmentRead(100, 100, "disk")]) == 0
    assert slow.most_saving([SegmentRead(100, 100, "ram"), SegmentRead(100, 100, "disk")]) == 1
    # One on disk in between is worth it where the segment behind it makes up for it.
    assert slow.most_saving([SegmentRead(100, 100, "disk"), SegmentRead(900, 900, "ram")]) == 2
    assert slow.most_saving([SegmentRead(100, 100, "disk"), SegmentRead(300, 300, "ram")]) == 0


def test_a_whole_file_is_read_even_where_few_of_its_tokens_are_needed():
    assert rates(1, 0.2, 0.5).most_saving([SegmentRead(10, 1000, "ram")]) == 0
    assert rates(1, 0.2, 0.5).most_saving([SegmentRead(300, 1000, "ram")]) == 1


def test_a_rate_follows_new_measurements():
    rate = Rate()
    assert rate.each is None
    for _ in range(60):
        rate.add(100, 1)
    assert rate.each == pytest.approx(0.01)
    for _ in range(60):
        rate.add(100, 3)
    assert rate.each == pytest.approx(0.03, rel=0.01)
    rate.add(0, 1)
    rate.add(1, 0)
    assert rate.each == pytest.approx(0.03, rel=0.01)


def test_seconds_saved_are_those_of_prefill_less_those_of_loading():
    assert rates(1, 0.1, 0.2).saved_seconds(SegmentRead(500, 1000, "disk")) == pytest.approx(0.3)
