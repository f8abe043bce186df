"""Timing attacks: the area under the ROC curve, its interval, what counts as a leak, the shape of the record."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from scipy.stats import mannwhitneyu

from benchmarks.attacks.__main__ import headline
from benchmarks.attacks.table import attacks
from memos_vllm.cli.probe import problem
from memos_vllm.errors import BadRequest
from memos_vllm.governance.probing import (
    LEAST_PROBES,
    Attack,
    Finding,
    Sample,
    auc,
    measured,
    new_texts,
    separation,
)


@pytest.mark.parametrize(
    ("fast", "slow", "expected"),
    [
        ([1, 2], [3, 4], 1.0),
        ([3, 4], [1, 2], 0.0),
        ([1, 2], [1, 2], 0.5),
        ([1, 1, 1], [1, 1], 0.5),
        ([1, 4], [2, 3], 0.5),
        ([1, 2, 5], [3, 4], 4 / 6),
    ],
)
def test_auc_is_the_share_of_pairs_in_order(fast, slow, expected) -> None:
    assert auc(fast, slow) == pytest.approx(expected)


def test_auc_is_the_statistic_of_mann_and_whitney_also_with_ties() -> None:
    dice = random.Random(1)
    for _ in range(20):
        fast = [dice.randint(0, 9) for _ in range(dice.randint(2, 30))]
        slow = [dice.randint(2, 11) for _ in range(dice.randint(2, 30))]
        statistic = mannwhitneyu(slow, fast).statistic
        assert auc(fast, slow) == pytest.approx(statistic / (len(fast) * len(slow)))


def test_the_interval_holds_chance_for_equal_times_and_excludes_it_for_a_shift() -> None:
    dice = random.Random(2)
    alarms = 0
    for seed in range(20):
        one, other = ([dice.gauss(10, 1) for _ in range(40)] for _ in range(2))
        found = separation(one, other, seed)
        assert found.low <= found.auc <= found.high
        alarms += not found.is_chance
    assert alarms <= 2, "one in a hundred"
    fast, slow = [dice.gauss(8.5, 1) for _ in range(40)], [dice.gauss(10, 1) for _ in range(40)]
    assert separation(fast, slow).low > 0.5
    assert separation(slow, fast).high < 0.5, "slower is a leak, too"


class FakeEngine:
    """A cache with times, shared by everyone or kept for each person."""

    def __init__(self, *, shared: bool, reports: bool = True, hides_time: bool = False) -> None:
        self.sent: set[tuple[str, str]] = set()
        self._shared, self._reports, self._hides_time = shared, reports, hides_time
        self._dice = random.Random(3)

    def send(self, person: str, text: str) -> Sample:
        known = ("all" if self._shared else person, text)
        hit = known in self.sent
        self.sent.add(known)
        seconds = self._dice.gauss(0.01 if hit and not self._hides_time else 0.02, 0.001)
        return Sample(seconds, (64 if hit else 0) if self._reports else None)

    def finding(self, probes: int = 30) -> Finding:
        strangers = itertools.count()
        attack = Attack(
            "prefix",
            lambda text: self.send("victim", text),
            lambda text: self.send(f"stranger {next(strangers)}", text),
        )
        return measured(attack, new_texts(6, seed=0), probes)


def test_a_private_cache_is_no_leak_and_the_control_sees_the_victims_hits() -> None:
    found = FakeEngine(shared=False).finding()
    assert not found.leaks
    assert found.conclusive
    assert found.control_hits == found.probes == 30
    assert found.control.auc > 0.99
    assert found.attacker_hits == found.attacker_cached_tokens == 0
    assert problem(found) is None


@pytest.mark.parametrize("reports", [True, False])
def test_a_shared_cache_is_found_by_its_time_also_where_no_reply_names_hits(reports: bool) -> None:
    found = FakeEngine(shared=True, reports=reports).finding()
    assert found.leaks
    assert found.attacker.low > 0.9
    assert found.attacker_hits == (30 if reports else 0)
    assert problem(found)


def test_a_shared_cache_whose_time_is_hidden_is_found_by_its_tokens() -> None:
    found = FakeEngine(shared=True, hides_time=True).finding()
    assert found.attacker_cached_tokens == 30 * 64
    assert found.leaks
    assert "30 guesses" in str(problem(found))


def test_a_measurement_that_does_not_see_the_victims_own_hit_proves_nothing() -> None:
    found = FakeEngine(shared=False, hides_time=True).finding()
    assert not found.conclusive
    assert "not conclusive" in str(problem(found))


def test_too_few_probes_are_refused() -> None:
    with pytest.raises(BadRequest, match=str(LEAST_PROBES)):
        FakeEngine(shared=False).finding(LEAST_PROBES - 1)


def test_the_victim_settles_between_its_request_and_the_guesses() -> None:
    order: list[str] = []

    def noted(who: str) -> Sample:
        order.append(who)
        return Sample(0.01, 0)

    attack = Attack(
        "x",
        lambda _: noted("victim"),
        lambda _: noted("attacker"),
        lambda _: order.append("settle"),
    )
    measured(attack, new_texts(6, seed=0), LEAST_PROBES)
    assert order[:5] == ["victim", "settle", "attacker", "attacker", "victim"]


def test_texts_differ_within_their_first_block() -> None:
    texts: Iterator[str] = new_texts(20)
    assert len({" ".join(next(texts).split()[:5]) for _ in range(200)}) == 200


def test_a_record_has_a_line_for_each_attack_and_counts_leaks() -> None:
    rows = [FakeEngine(shared=shared).finding().as_dict() for shared in (False, True)]
    assert headline(rows) == {
        "attacks": 2,
        "attacks_that_leak": 1,
        "attacks_that_could_not_tell": 0,
        "attacker_hits": 30,
    }
    table = attacks({"rows": rows, "config": {"level": 0.99}})
    assert len([line for line in table.splitlines() if line.startswith("| prefix |")]) == 2
