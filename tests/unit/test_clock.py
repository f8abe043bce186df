"""Memory's clock beside a machine's clock that is set, corrected and suspended."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm import clock
from memos_vllm.clock import LASTING_NS, Clock
from memos_vllm.cube.ids import new_id, now_us

SECOND = 10**9
YEAR = 365 * 86_400 * SECOND
START = 1_790_000_000 * SECOND


class Machine:
    """A wall clock and a count, both set by hand."""

    def __init__(self) -> None:
        self.count = 5 * SECOND
        self.wall = START
        self.clock = Clock(lambda: self.wall, lambda: self.count)

    def run(self, ns: int, wall: int | None = None) -> int:
        """Time passes, on the wall clock by another amount where that is given."""
        self.count += ns
        self.wall += ns if wall is None else wall
        return self.clock.now_ns()


def test_time_passes_as_on_the_wall():
    machine = Machine()
    assert machine.clock.now_ns() == START
    assert machine.run(90 * SECOND) == START + 90 * SECOND


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 3600 * SECOND, -2 * SECOND])
def test_a_jump_that_is_taken_back_never_was(jump: int):
    machine = Machine()
    before = machine.run(SECOND)
    machine.wall += jump
    during = [machine.run(SECOND) for _ in range(100)]
    machine.wall -= jump
    after = machine.run(SECOND)
    assert during == [before + SECOND * (number + 1) for number in range(100)]
    assert after == during[-1] + SECOND


def test_a_jump_that_lasts_is_followed_and_time_never_runs_backwards(
    caplog: pytest.LogCaptureFixture,
):
    machine = Machine()
    machine.wall += 3600 * SECOND  # a right clock after a wrong one
    with caplog.at_level(logging.WARNING):
        assert machine.run(SECOND) == START + SECOND
        assert machine.run(LASTING_NS) == machine.wall
    assert ["jumped by +3600 s" in caplog.text, "has lasted" in caplog.text] == [True, True]
    right = machine.clock.now_ns()
    machine.wall -= 60 * SECOND
    machine.run(SECOND)
    late = machine.run(LASTING_NS)
    assert late >= right
    machine.run(60 * SECOND)
    assert machine.clock.now_ns() == machine.wall


def test_a_second_jump_begins_anew():
    machine = Machine()
    machine.wall += YEAR
    machine.run(LASTING_NS - SECOND)
    machine.wall += YEAR
    quiet = machine.run(SECOND)
    assert quiet < START + LASTING_NS + SECOND
    assert machine.run(LASTING_NS) == machine.wall


def test_corrections_of_ntp_are_followed_at_once_also_after_an_idle_night():
    machine = Machine()
    assert machine.run(SECOND, SECOND + SECOND // 2) == machine.wall
    night = 8 * 3600 * SECOND
    assert machine.run(night, night + 10 * SECOND) == machine.wall


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(-1_000_000, 1_000_000)),
        min_size=1,
        max_size=40,
    )
)
def test_time_never_runs_backwards(steps: list[tuple[int, int]]):
    machine = Machine()
    seen = [machine.run(passed * SECOND, wall * SECOND) for passed, wall in steps]
    assert seen == sorted(seen)


def test_ids_and_times_of_this_process_are_of_its_clock(monkeypatch: pytest.MonkeyPatch):
    machine = Machine()
    monkeypatch.setattr(clock, "_CLOCK", machine.clock)
    assert now_us() == START // 1000
    machine.wall += YEAR
    assert new_id("x").startswith(f"x_{START // 10**6:012x}")


def test_threads_see_one_order():
    mine = Clock()
    seen: list[int] = []
    lock = threading.Lock()

    def look() -> None:
        for _ in range(300):
            with lock:
                seen.append(mine.now_ns())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
