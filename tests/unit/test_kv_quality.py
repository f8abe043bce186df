"""Cost of approximate KV: measured, noted and compared with a bound."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.activation.backoff import ContextIndex
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.quality import Quality, QualityNotes, divergence
from tests.unit.test_kv_contexts import chain, kept_with

PROBABILITIES = st.lists(st.floats(0.01, 1), min_size=3, max_size=8)


def distribution(weights: list[float]) -> dict[int, float]:
    total = sum(weights)
    return {token: math.log(weight / total) for token, weight in enumerate(weights)}


@given(PROBABILITIES)
def test_a_distribution_is_no_distance_from_itself(weights):
    assert divergence(distribution(weights), distribution(weights)) == pytest.approx(0, abs=1e-9)


@given(PROBABILITIES, PROBABILITIES, st.integers(1, 3))
def test_unlisted_tokens_only_lower_the_divergence(one, other, listed):
    size = min(len(one), len(other))
    exact, near = distribution(one[:size]), distribution(other[:size])
    full = sum(math.exp(p) * (p - near[token]) for token, p in exact.items())
    assert divergence(exact, near) == pytest.approx(full, abs=1e-4)
    part = {token: exact[token] for token in list(exact)[:listed]}
    assert -1e-9 <= divergence(part, near) <= full + 1e-4


def test_two_that_agree_on_nothing_are_far_apart():
    assert divergence({1: -0.01, 2: -9.0}, {1: -9.0, 2: -0.01}) > 5
    assert divergence({1: -0.01, 2: -9.0}, {3: -0.01, 4: -9.0}) > 5, "nothing in common is listed"


def test_probes_add_up_to_their_mean(tmp_path):
    notes, name = QualityNotes(tmp_path / "quality"), SegmentName("model", "scope", "key")
    assert notes.read(name) is None
    quality = Quality(0, 0.0, 0.0, "cube", 2)
    for kl, is_same in ((0.1, True), (0.2, True), (0.6, False)):
        quality = quality.with_probe(kl, is_same)
        notes.write(name, quality)
    known = notes.read(name)
    assert known is not None
    assert (known.probes, known.cube, known.behind) == (3, "cube", 2)
    assert known.kl == pytest.approx(0.3)
    assert known.top1 == pytest.approx(2 / 3)
    notes.forget(name)
    assert notes.read(name) is None


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"probes": 1}'])
def test_a_damaged_note_is_none(tmp_path, damage):
    notes = QualityNotes(tmp_path)
    (tmp_path / "m+s+k").write_text(damage)
    assert notes.read(SegmentName("m", "s", "k")) is None


def test_a_context_that_costs_too_much_gives_way_to_a_worse_matching_one(tmp_path):
    kept = kept_with(tmp_path)
    closest, other = kept.keep("HAB")[2], kept.keep("HXYB")[3]
    index = ContextIndex(kept.keeper.segments, kept.namer, most_kl=0.2)

    def found() -> list[tuple[str, float | None]]:
        tokens, segments = chain("HCAB")
        sources = index.closest(tokens, segments, 3, {"tenant"}, lambda cubes: True)
        return [(source.key, source.kl) for source in sources]

    assert found() == [(closest, None)]
    for key, kl, expected in (
        (closest, 0.2, [(closest, 0.2)]),
        (closest, 0.21, [(other, None)]),
        (other, 0.3, []),
    ):
        names = kept.namer.names(*chain("HAB" if key == closest else "HXYB"))
        kept.keeper.segments.quality.write(names[-1][0], Quality(3, kl, 1.0))
        assert found() == expected


def test_the_quality_of_a_segment_is_deleted_with_it(tmp_path):
    kept = kept_with(tmp_path)
    kept.keep("HAB")
    (name,) = kept.namer.names(*chain("HAB"))[-1]
    kept.keeper.segments.quality.write(name, Quality(3, 0.1, 1.0, "B", 1))
    names = kept.keeper.segments.sizes("B")
    assert list(names) == [name]
    assert [q.kl for q in kept.keeper.segments.qualities("B", names)] == [0.1]
    assert kept.keeper.segments.qualities("A", names) == []
    assert kept.keeper.segments.sizes("B", ["another person"]) == {}
    kept.keeper.segments.forget("B")
    assert kept.keeper.segments.quality.read(name) is None
