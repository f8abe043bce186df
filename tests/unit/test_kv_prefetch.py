"""Prefetching KV into memory, and the order of cubes that makes prompts begin alike."""

from __future__ import annotations

import asyncio

import pytest

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.recent import RecentSegments
from memos_vllm.activation.tombstones import short
from memos_vllm.engine.kv_plan.planner import Prompt
from memos_vllm.engine.kv_plan.prefetch import Prefetcher
from memos_vllm.governance.scope import Scopes
from memos_vllm.scheduler.scheduler import hottest_first
from memos_vllm.vault.views import StableCube
from tests.conftest import principal
from tests.unit.test_kv_store import FILE_BYTES, MODEL, keep, kept_in, named, open_keeper

ALICE, BOB = principal("alice"), principal("bob")
SCOPES = Scopes(b"secret", "person")


# -- recent segments -----------------------------------------------------------------------------------


def test_the_last_prompts_are_known_after_a_restart_and_longer_ones_replace_their_beginnings(
    tmp_path,
):
    recent = RecentSegments(tmp_path)
    assert recent.of("alice") == []
    for names in (["a"], ["a", "b"], ["x"], ["y"], ["z"], ["x"], ["a", "b", "c"]):
        recent.note("alice", names)
    expected = [["a", "b", "c"], ["x"], ["z"], ["y"]]
    assert recent.of("alice") == expected
    assert RecentSegments(tmp_path).of("alice") == expected
    assert recent.of("bob") == []


@pytest.mark.parametrize("damage", ["", "{", "7", "[7]"])
def test_a_damaged_note_counts_as_empty(tmp_path, damage):
    (tmp_path / "alice").write_text(damage)
    assert RecentSegments(tmp_path).of("alice") == []


def test_a_person_who_is_forgotten_has_no_recent_segments(tmp_path):
    keeper = open_keeper(tmp_path)
    keeper.segments.make_folders()
    keeper.segments.recent.note(short(SCOPES.person(ALICE)), ["a"])
    keeper.segments.recent.note(short(SCOPES.person(BOB)), ["b"])
    keeper.segments.forget_scope(SCOPES.person(ALICE))
    again = open_keeper(tmp_path).segments.recent
    assert again.of(short(SCOPES.person(ALICE))) == []
    assert again.of(short(SCOPES.person(BOB))) == [["b"]]


# -- bringing it up --------------------------------------------------------------------------------------


def test_warming_fills_free_memory_and_evicts_nothing(tmp_path):
    keeper = open_keeper(tmp_path, ram_bytes=3 * FILE_BYTES)
    for i in range(5):
        keep(keeper, named(f"k{i}"))
    keeper.segments.empty_memory()
    keeper = open_keeper(tmp_path, ram_bytes=3 * FILE_BYTES)
    warmed = [keeper.warm(str(named(f"k{i}"))) for i in range(5)]
    assert warmed[0]
    assert not warmed[-1]
    assert [i for i in range(5) if keeper.segments.where(named(f"k{i}")) == "ram"] == [
        i for i in range(5) if warmed[i]
    ]
    assert keeper.warm("no/such/segment"), "one that is gone says nothing about the room"


def test_the_last_used_comes_first_and_every_worker_its_own(tmp_path):
    keeper = open_keeper(tmp_path)
    for key, rank in (("old", ""), ("other", "1of2"), ("young", "")):
        keep(keeper, named(key).__class__(named(key).model, named(key).scope, key, rank))
    keeper.segments.disk.used(str(named("old")))
    assert [SegmentName.parse(name).key for name in keeper.warmest("")] == ["old", "young"]
    assert [SegmentName.parse(name).key for name in keeper.warmest("1of2")] == ["other"]


async def test_a_new_session_reads_ahead_once_and_a_turn_warms_its_person_s_segments(
    tmp_path, monkeypatch
):
    keeper = open_keeper(tmp_path)
    tokens, segments = list(range(48)), [Segment(16, "tenant"), Segment(48, "tenant", ("a@1",))]
    names = [each[0] for each in Namer(MODEL).names(tokens, segments)]
    for name in names:
        keep(keeper, name)
    keeper.segments.empty_memory()
    tasks: list[asyncio.Task] = []

    def prefetcher() -> Prefetcher:
        spawn = lambda work: tasks.append(asyncio.ensure_future(work))  # noqa: E731
        return Prefetcher(keeper, Namer(MODEL), keeper.segments.recent, SCOPES, spawn)

    first = prefetcher()
    first.arrived(ALICE)
    first.answered(ALICE, Prompt("", tokens, None), tuple(segments))
    await asyncio.gather(*tasks)
    assert [keeper.segments.where(name) for name in names] == ["ram", "ram"]
    assert len(kept_in(tmp_path)) == 4

    read = []
    monkeypatch.setattr(keeper, "read_ahead", read.append)
    again = prefetcher()
    for _ in range(3):
        again.arrived(ALICE)
    again.arrived(BOB)
    await asyncio.gather(*tasks)
    assert read == [str(name) for name in names]


# -- order ---------------------------------------------------------------------------------------------


def cube(name: str, reads: int, person: str = "") -> StableCube:
    return StableCube(name, name, "v", 1, person, 0, reads, ord(name), ())


def test_the_hottest_of_the_tenant_s_cubes_come_first_and_placed_ones_stay():
    named_cubes = [cube("a", 3), cube("b", 900, "alice"), cube("c", 40), cube("d", 45)]
    placed = [cube("z", 10_000)]
    found = [c.name for c in hottest_first([*named_cubes, *placed], 4)]
    assert found == ["c", "d", "a", "b", "z"], "heat counts in doublings, so c and d stay in order"
