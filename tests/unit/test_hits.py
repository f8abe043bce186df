"""Where cached tokens came from: ranges of loads, cut into kinds and sources."""

from __future__ import annotations

import types

import pytest

from memos_vllm.activation import hits
from memos_vllm.activation.hits import Hits, Loaded, hits_of
from memos_vllm.activation.orders import FIELD

MEMORY, DISK = Loaded(0, 300, "memory"), Loaded(300, 500, "disk")


@pytest.mark.parametrize(
    ("cached", "loaded", "head", "near", "found"),
    [
        (0, [], 0, [], []),
        (320, [], 0, [], [("conversation", "engine", 320)]),
        (320, [], 500, [], [("exact", "engine", 320)]),
        (
            500,
            [MEMORY, DISK],
            400,
            [],
            [("exact", "memory", 300), ("exact", "disk", 100), ("conversation", "disk", 100)],
        ),
        (350, [MEMORY, DISK], 400, [], [("exact", "memory", 300), ("exact", "disk", 50)]),
        (
            500,
            [Loaded(64, 500, "lmcache")],
            64,
            [],
            [("exact", "engine", 64), ("conversation", "lmcache", 436)],
        ),
        (
            500,
            [MEMORY, DISK],
            500,
            [(100, 500)],
            [("exact", "memory", 100), ("near", "memory", 200), ("near", "disk", 200)],
        ),
        (
            300,
            [Loaded(0, 100, "disk"), Loaded(100, 300, "disk")],
            300,
            [],
            [("exact", "disk", 300)],
        ),
    ],
)
def test_cached_tokens_are_told_by_kind_and_source(cached, loaded, head, near, found):
    told = hits_of(cached, loaded, head, near)
    assert told == [Hits(*each) for each in found]
    assert sum(each.tokens for each in told) == cached


def test_a_report_is_taken_out_of_the_output():
    output = types.SimpleNamespace(kv_transfer_params=hits.to_params([MEMORY, DISK]))
    assert hits.take(output) == [MEMORY, DISK]
    assert output.kv_transfer_params is None
    assert hits.take(output) is None
    other = {"do_remote_decode": True}
    output.kv_transfer_params = {**hits.to_params([MEMORY]), **other}
    assert hits.take(output) == [MEMORY]
    assert output.kv_transfer_params == other, "another connector's parameters stay"
    assert FIELD not in output.kv_transfer_params
    assert hits.to_params([]) is None
