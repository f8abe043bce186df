"""The seeded part of `tests.fuzz`: every parser of outside data returns, or raises a MemosError."""

from __future__ import annotations

import pytest

from tests.fuzz import TARGETS, run_seeded, seeds, try_one

SECONDS = 1.2  # of each target: 17 of them stay below half a minute


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_gives_a_result_or_a_memos_error(name: str) -> None:
    for data in seeds()[name]:
        try_one(TARGETS[name], data)
    assert run_seeded(name, SECONDS, seed=1) > 3


def test_a_defect_is_seen() -> None:
    with pytest.raises(KeyError):
        try_one(lambda data: {}[data], b"x")
