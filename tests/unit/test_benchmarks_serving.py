"""The benchmark of chat under load: its workload, which rounds count, and its ratios."""

from __future__ import annotations

import pytest

from benchmarks.serving.load import Answer, Slice
from benchmarks.serving.people import CHAT_TURNS, HISTORY_TURNS, TENANTS, base_of, people
from benchmarks.serving.summary import headline, rows
from benchmarks.serving.table import serving

NONE, PASTED, OURS, QUIET = "no memory", "pasted", "ours", "ours, nothing to say"


def held(arm: str, seconds: float, number: int = 0, reference: float = 0.03) -> Slice:
    """A slice of four answers, the last one three times as slow."""
    ttfts = (seconds, seconds, seconds, 3 * seconds)
    answers = [Answer(ttft, ttft / 10, 2 * ttft, 1000, 600, False) for ttft in ttfts]
    made = Slice(arm, 4, 0, number, reference, seconds=10 * seconds, answers=answers)
    made.api_seconds = seconds / 10
    return made


def test_everyone_has_a_history_of_their_own_and_asks_about_it():
    everyone = people()
    assert people() == everyone, "every run has the same"
    assert len({person.name for person in everyone}) == len(everyone) == TENANTS * 2
    assert [each.tenant for each in everyone[:4]] == [f"tenant-{number}" for number in range(4)]
    for person in everyone[:16]:
        assert len(list(person.turns)) == HISTORY_TURNS
        asked = person.questions(0)
        assert len(asked) == CHAT_TURNS
        assert asked != person.questions(1)
        text = " ".join(turn.text for turn in person.turns)
        for question in asked:
            thing = question.partition(" the ")[2].partition(" in ")[0]
            assert f"the {thing} in" in text
    assert base_of("tenant-0") != base_of("tenant-1")


def test_a_ratio_is_of_one_round_and_a_round_with_a_slow_machine_does_not_count():
    slices = [held(PASTED, 4.0), held(OURS, 1.0), held(NONE, 1.0), held(QUIET, 1.5)]
    slices += [held(PASTED, 1.0, 1, reference=0.3), held(OURS, 9.0, 1)]
    slices += [held(PASTED, 8.0, 2), held(OURS, 2.0, 2)]
    slices[-1].errors.append("ValueError: a reply without text")
    found = headline(slices, drop=True)
    assert found["ttft_p50_ours_over_pasted_4"] == pytest.approx(0.25)
    assert found["ttft_p95_ours_over_pasted_4"] == pytest.approx(0.25)
    assert found["tokens_per_second_ours_over_pasted_4"] == pytest.approx(4)
    assert found["ttft_p50_quiet_over_bare_4"] == pytest.approx(1.5)
    assert (found["errors_ours"], found["rounds_dropped"]) == (1, 1)
    assert headline(slices, drop=False)["rounds_dropped"] == 0
    (ours,) = [row for row in rows(slices, drop=True) if row["arm"] == OURS]
    assert (ours["requests"], ours["rounds"], ours["errors"]) == (8, 2, 1)
    assert ours["cached_share"] == 0.6


def test_the_table_has_a_line_for_each_arm():
    slices = [held(PASTED, 4.0), held(OURS, 1.0), held(NONE, 1.0), held(QUIET, 1.5)]
    config = {"people": 16, "tenants": 8, "history_turns": 200, "chat_turns": 4, "reply_tokens": 32}
    config |= {"kv_blocks": 768, "block_size": 32, "starts": 1, "rounds": 1}
    record = {
        "rows": rows(slices, drop=True),
        "headline": headline(slices, drop=True),
        "config": config,
    }
    table = serving(record)
    assert "| 4 | **ours** | 1.00 / 2.70 / 2.94 | 100 |" in table
    assert "0.25 / 0.25, × 4.00 (4 clients)" in table
