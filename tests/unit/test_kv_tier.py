"""Eviction from a tier, pins, and promotion of segments that are used again."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from types import SimpleNamespace

import pytest

from memos_vllm.activation import files
from memos_vllm.activation.direct_io import read_rate
from memos_vllm.activation.erase import SUFFIX
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_store import FILE_BYTES, SHAPE, keep, kept_in, named, open_keeper, read


@pytest.fixture
def small(tmp_path):
    """Room for four segments on disk, and no shared memory."""
    return open_keeper(tmp_path, max_bytes=4 * FILE_BYTES, ram_bytes=0)


def on_disk(folder) -> set[str]:
    return set(kept_in(folder))


def test_the_folder_never_holds_more_than_it_may(small, tmp_path):
    for i in range(12):
        assert keep(small, named(f"k{i:02}"))
        held = sum(path.stat().st_size for path in tmp_path.rglob(f"*{SUFFIX}"))
        assert held <= small.segments.disk.max_bytes
    assert "k11" in on_disk(tmp_path)
    count, total = small.segments.disk.totals()
    assert (count, total) == (len(on_disk(tmp_path)), held)


def test_the_oldest_goes_first_and_no_more_than_has_to(small, tmp_path):
    for i in range(4):
        keep(small, named(f"k{i}"))
    keep(small, named("k4"))
    assert {"k2", "k3", "k4"} <= on_disk(tmp_path)
    assert "k0" not in on_disk(tmp_path)


def test_a_used_segment_outlives_a_newer_one(small, tmp_path):
    for i in range(4):
        keep(small, named(f"k{i}"))
    read(small, named("k0"))
    keep(small, named("k4"))
    assert "k0" in on_disk(tmp_path)
    assert "k1" not in on_disk(tmp_path)


def test_a_segment_used_twice_as_often_outlives_one_used_a_little_later(small, tmp_path):
    for i in range(4):
        keep(small, named(f"k{i}"))
    for key in ("k3", "k3", "k3", "k0", "k1", "k2"):
        read(small, named(key))
    keep(small, named("k4"))
    keep(small, named("k5"))
    assert "k3" in on_disk(tmp_path)
    assert "k0" not in on_disk(tmp_path)


def test_a_pinned_cube_s_segments_stay_until_it_is_unpinned(small, tmp_path):
    small.segments.pin("a")
    assert small.segments.has_pin("a")
    keep(small, named("own"), ("a@1",))
    keep(small, named("behind"), ("a@1", "b@1"))
    for i in range(8):
        assert keep(small, named(f"k{i}"), ("c@1",))
    assert {"own", "behind"} <= on_disk(tmp_path)
    small.segments.pin("a", False)
    assert not small.segments.has_pin("a")
    for i in range(4):
        keep(small, named(f"l{i}"), ("c@1",))
    assert not {"own", "behind"} & on_disk(tmp_path)


def test_pins_respect_the_bound_and_do_not_outlive_a_deletion(small, tmp_path):
    small.segments.pin("a")
    for i in range(4):
        keep(small, named(f"a{i}"), ("a@1",))
    assert not keep(small, named("k"), ("b@1",))
    assert on_disk(tmp_path) == {"a0", "a1", "a2", "a3"}
    assert small.segments.forget("a", 2) == 4
    assert keep(small, named("k"), ("b@1",))
    assert small.segments.has_pin("a"), "in every version"
    small.segments.forget("a")
    assert not small.segments.has_pin("a")


def test_a_segment_that_never_fits_is_refused_and_evicts_nothing(tmp_path, monkeypatch):
    keeper = open_keeper(tmp_path, max_bytes=4 * FILE_BYTES, ram_bytes=0)
    keep(keeper, named("k"))
    large = dataclasses.replace(SHAPE, tokens=5 * SHAPE.tokens)
    assert not keeper.add(named("large"), large, layers_of(large), (), {"digest": "d"})
    assert on_disk(tmp_path) == {"k"}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    assert not keep(keeper, named("l"))
    assert on_disk(tmp_path) == {"k"}


def test_a_nearly_full_disk_is_made_room_on_too(small, tmp_path, monkeypatch):
    for i in range(3):
        keep(small, named(f"k{i}"))
    free = itertools.count((64 << 20) - FILE_BYTES // 2, FILE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    assert keep(small, named("l"))
    assert "l" in on_disk(tmp_path)
    assert "k0" not in on_disk(tmp_path)


def test_room_is_made_among_other_processes_files_too(small, tmp_path):
    for i in range(4):
        keep(small, named(f"k{i}"))
    other = open_keeper(tmp_path, max_bytes=4 * FILE_BYTES, ram_bytes=0)
    assert keep(other, named("k4"))
    assert "k4" in on_disk(tmp_path)
    assert len(on_disk(tmp_path)) < 5


def test_every_segment_of_a_large_index_is_named_once(small):
    for i in range(2000):
        path = small.segments.disk.path(str(named(f"k{i}", f"person-{i % 40}")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    names = [name for name, _ in small.segments.disk.names()]
    assert len(names) == len(set(names)) == 2000
    assert str(named("k41", "person-1")) in names
    assert small.segments.disk.totals() == (2000, 10_000)


def test_how_fast_a_tier_reads_is_measured_and_leaves_nothing(small, tmp_path):
    size, seconds = read_rate(small.segments.disk.folder)
    assert size >= 1 << 20
    assert seconds > 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- folders ---------------------------------------------------------------------------------------


def test_looking_makes_no_folder_and_keeping_makes_them_for_this_user_alone(tmp_path):
    keeper = open_keeper(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert keeper.segments.where(named("k")) is None
    assert (
        keeper.segments.disk.totals(),
        keeper.segments.contexts("d"),
        keeper.segments.sizes("a"),
    ) == ((0, 0), [], {})
    assert keeper.segments.pinned() == set()
    keeper.segments.sweep()
    assert keeper.segments.generation("alice") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert keep(keeper, named("k"))
    tops = [tmp_path / "kv", *(tier.folder for tier in keeper.segments.tiers())]
    for path in (*tops, *tmp_path.rglob(f"*{SUFFIX}")):
        assert not path.stat().st_mode & 0o077, path


# -- shared memory ----------------------------------------------------------------------------------


@pytest.fixture
def keeper(tmp_path):
    """With one segment that was pushed out of shared memory."""
    keeper = open_keeper(tmp_path)
    keep(keeper, named("k"))
    keeper.segments.ram.wipe(str(named("k")))
    return keeper


def test_a_segment_that_is_used_again_goes_up_into_shared_memory(keeper):
    read(keeper, named("k"))
    keeper.promote(named("k"))
    assert keeper.segments.where(named("k")) == "disk"
    read(keeper, named("k"))
    keeper.promote(named("k"))
    assert keeper.segments.where(named("k")) == "ram"
    assert read(keeper, named("k"))[1] == "ram"


def test_a_segment_that_is_wiped_while_it_goes_up_does_not_stay_there(
    keeper, tmp_path, monkeypatch
):
    copy = files.copy

    def late(source, target):
        size = copy(source, target)
        keeper.segments.disk.wipe(str(named("k")))
        return size

    for _ in range(2):
        read(keeper, named("k"))
    monkeypatch.setattr(files, "copy", late)
    keeper.promote(named("k"))
    assert on_disk(tmp_path) == set()


def test_shared_memory_that_takes_nothing_is_no_more_than_a_miss(keeper, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "copy", full)
    for _ in range(2):
        read(keeper, named("k"))
    keeper.promote(named("k"))
    assert "No space" in caplog.text
    assert keep(keeper, named("l"))
    assert keeper.segments.where(named("l")) == keeper.segments.where(named("k")) == "disk"


def test_shared_memory_is_bounded_by_itself(tmp_path):
    keeper = open_keeper(tmp_path, ram_bytes=2 * FILE_BYTES)
    for i in range(6):
        assert keep(keeper, named(f"k{i}"))
    in_memory = [name for name, _ in keeper.segments.ram.names()]
    assert 1 <= len(in_memory) <= 2
    assert keeper.segments.disk.totals()[0] == 6
    assert keeper.segments.where(named("k0")) == "disk"
    assert keeper.segments.where(named("k5")) == "ram"


def test_shared_memory_is_given_back_and_the_disk_has_it_all(tmp_path):
    keeper = open_keeper(tmp_path)
    keep(keeper, named("k"))
    keeper.segments.empty_memory()
    assert not keeper.segments.ram.folder.exists()
    assert read(keeper, named("k"))[1] == "disk"
    assert keep(keeper, named("l"))
    assert keeper.segments.where(named("l")) == "ram"
    open_keeper(tmp_path, ram_bytes=0).segments.empty_memory()
    assert keeper.segments.where(named("l")) == "ram"
