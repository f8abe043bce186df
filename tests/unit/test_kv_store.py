"""The store of segments: lookups, damage, and deletion on every tier."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from memos_vllm.activation import files
from memos_vllm.activation.chain import Segment
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.erase import SUFFIX
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.config.kv import KVConfig
from memos_vllm.errors import DamagedPayload
from memos_vllm.governance.scope import Scopes
from tests.conftest import principal
from tests.unit.test_kv_files import layers_of

MODEL = bytes(range(32))
SHAPE = Shape(layers=2, tokens=16, heads=4, head_dim=16, dtype=torch.float32)
FILE_BYTES = 18_000
"""Of one segment, and a little more."""


def settings(folder: Path, **options) -> KVConfig:
    (folder / "ram").mkdir(exist_ok=True)
    return KVConfig(**{"ram_path": folder / "ram", "max_bytes": 1 << 20, **options})


def open_keeper(folder: Path, **options) -> TensorStore:
    """A store as in an engine worker; a second one on the folder is another process's."""
    return TensorStore(SegmentStore(settings(folder, **options), folder / "kv"))


def open_store(folder: Path) -> SegmentStore:
    """A store as in the API process."""
    return SegmentStore(settings(folder), folder / "kv")


def named(key: str, scope: str = "alice") -> SegmentName:
    return SegmentName.of(MODEL, scope, key)


def keep(
    keeper: TensorStore,
    name: SegmentName,
    cubes: Sequence[str] = ("a@1",),
    layers=None,
    generation: int = 0,
) -> bool:
    layers = layers_of(SHAPE) if layers is None else layers
    return keeper.add(name, SHAPE, layers, cubes, {"digest": short(name.key)}, generation)


def read(keeper: TensorStore, name: SegmentName) -> tuple[torch.Tensor, str]:
    with keeper.open(name) as (reader, tier):
        return torch.stack([layer.clone() for layer in reader.layers(Scratch())]), tier


def kept_in(folder: Path) -> list[str]:
    """Keys of all segment files, on both tiers, the unfinished ones as well."""
    found = [*folder.rglob(f"*{SUFFIX}"), *folder.rglob(".*.tmp")]
    return sorted(path.name.removesuffix(SUFFIX) for path in found)


@pytest.fixture
def keeper(tmp_path) -> TensorStore:
    return open_keeper(tmp_path)


# -- saving and finding -----------------------------------------------------------------------------


def test_a_segment_is_found_on_both_tiers_and_read_unchanged(keeper, tmp_path):
    assert keeper.segments.where(named("k")) is None
    assert keep(keeper, named("k"))
    assert kept_in(tmp_path) == ["k", "k"]
    assert keeper.segments.where(named("k")) == "ram"
    tensor, tier = read(keeper, named("k"))
    assert tier == "ram"
    keeper.segments.ram.wipe(str(named("k")))
    assert keeper.segments.where(named("k")) == "disk"
    again, tier = read(keeper, named("k"))
    assert tier == "disk"
    assert torch.equal(tensor, again)
    assert torch.equal(tensor, torch.stack(layers_of(SHAPE)))


@pytest.mark.parametrize("options", [{"ram_bytes": 0}, {"ram_path": Path("nowhere")}])
def test_without_shared_memory_the_disk_serves(tmp_path, options):
    keeper = open_keeper(tmp_path, **options)
    assert keep(keeper, named("k"))
    assert keeper.segments.where(named("k")) == "disk"
    assert read(keeper, named("k"))[1] == "disk"


def test_a_segment_of_another_process_is_found_and_wiped_for_both(keeper, tmp_path):
    other = open_keeper(tmp_path)
    keep(keeper, named("k"))
    assert other.segments.where(named("k")) == open_store(tmp_path).where(named("k")) == "ram"
    assert torch.equal(read(other, named("k"))[0], torch.stack(layers_of(SHAPE)))
    assert other.segments.disk.totals()[0] == 1
    open_store(tmp_path).forget("a")
    assert keeper.segments.where(named("k")) is None
    assert other.segments.where(named("k")) is None


def test_a_segment_is_complete_with_the_share_of_every_worker(keeper):
    segments = [Segment(16, "alice")]
    ((first, second),) = Namer(MODEL, ("0of2", "1of2")).names(range(16), segments)
    keep(keeper, first)
    assert not keeper.segments.has_all((first, second))
    keep(keeper, second)
    assert keeper.segments.has_all((first, second))
    assert str(first) != str(second)
    assert first.key == second.key


def test_a_cube_s_segments_and_sizes_are_listed(keeper):
    keep(keeper, named("own"), ("a@1",))
    keep(keeper, named("behind"), ("b@1", "a@1"))
    keep(keeper, named("other"), ("b@1",))
    sizes = keeper.segments.sizes("a")
    assert set(sizes) == {named("own"), named("behind")}
    for name, size in sizes.items():
        assert size == keeper.segments.disk.path(str(name)).stat().st_size
        assert SHAPE.bytes < size < FILE_BYTES


# -- damage ---------------------------------------------------------------------------------------


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def test_a_damaged_file_is_wiped_where_it_is_read_and_only_there(keeper, tmp_path):
    keep(keeper, named("k"))
    _damage(keeper.segments.ram.path(str(named("k"))))
    with pytest.raises(DamagedPayload):
        read(keeper, named("k"))
    assert keeper.segments.where(named("k")) == "disk"
    assert torch.equal(read(keeper, named("k"))[0], torch.stack(layers_of(SHAPE)))
    _damage(keeper.segments.disk.path(str(named("k"))))
    with pytest.raises(DamagedPayload):
        read(keeper, named("k"))
    assert kept_in(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        read(keeper, named("k"))
    assert keep(keeper, named("k")), "a whole one takes its place"


def test_a_file_under_another_segment_s_name_is_damaged(keeper):
    keep(keeper, named("k"))
    path = keeper.segments.ram.path(str(named("k")))
    path.rename(path.with_name(f"other{SUFFIX}"))
    with pytest.raises(DamagedPayload, match="another segment"):
        read(keeper, named("other"))
    assert keeper.segments.where(named("other")) is None


def test_a_file_that_its_reader_refuses_is_wiped_and_one_that_cannot_be_read_stays(keeper):
    keep(keeper, named("k"))
    for error, left in ((OSError, "ram"), (DamagedPayload, "disk")):
        with pytest.raises(error), keeper.open(named("k")):
            raise error("it does not fit")
        assert keeper.segments.where(named("k")) == left


# -- forgetting -----------------------------------------------------------------------------------


def test_a_forgotten_cube_takes_its_own_and_following_chains_with_it(keeper, tmp_path):
    keep(keeper, named("own"), ("a@1",))
    keep(keeper, named("behind"), ("a@1", "b@1"))
    keep(keeper, named("before"), ("b@1",))
    keep(keeper, named("other", "bob"), ("c@1",))
    (doomed,) = {path.parent for path in tmp_path.glob(f"kv/cubes/*/*{named('own').key}*")}
    assert len(list(doomed.iterdir())) == 2
    held = [path.open("rb") for path in tmp_path.rglob(f"behind{SUFFIX}")]
    assert open_store(tmp_path).forget("a") == 2
    assert kept_in(tmp_path) == ["before", "before", "other", "other"]
    assert list(doomed.iterdir()) == []
    assert len(held) == 2
    for file in held:
        with file:
            assert not any(file.read()), "a process that holds the file reads zeros"
    assert open_store(tmp_path).forget("a") == 0


def test_a_new_version_refuses_saves_of_older_ones_in_flight(keeper, tmp_path):
    keep(keeper, named("k"), ("b@1", "a@2"))
    open_store(tmp_path).forget("a", 3)
    for late in ("a@2", "a@1"):
        assert not keep(keeper, named("k"), ("b@1", late))
        assert kept_in(tmp_path) == []
    for new in ("a@3", "a@10"):
        assert keep(keeper, named(new), ("b@1", new))
    open_store(tmp_path).forget("a")
    assert not keep(keeper, named("k"), ("a@99",))
    assert keep(keeper, named("k"), ("b@1",))


@pytest.mark.parametrize("sequence", [None, 2])
def test_a_cube_deleted_while_its_segment_is_written_brings_nothing_back(
    keeper, tmp_path, sequence
):
    def layers():
        yield layers_of(SHAPE)[0]
        open_store(tmp_path).forget("b", sequence)
        yield layers_of(SHAPE)[1]

    assert not keep(keeper, named("k"), ("a@1", "b@1"), layers())
    assert kept_in(tmp_path) == []


def test_a_cube_deleted_while_its_segment_is_copied_brings_nothing_back(
    keeper, tmp_path, monkeypatch
):
    copy = files.copy

    def slow(source: Path, target: Path) -> int:
        size = copy(source, target.with_name("unfinished"))
        open_store(tmp_path).forget("a")
        target.with_name("unfinished").rename(target)
        return size

    monkeypatch.setattr(files, "copy", slow)
    assert not keep(keeper, named("k"))
    assert kept_in(tmp_path) == []


def test_forgetting_a_scope_wipes_that_scope_only(keeper, tmp_path):
    for scope in ("alice", "bob", "alice/salted"):
        keep(keeper, named(scope.replace("/", "-"), scope))
    other_model = dataclasses.replace(named("old", "alice"), model="0" * 16)
    keep(keeper, other_model)
    held = [path.open("rb") for path in tmp_path.rglob(f"alice*{SUFFIX}")]
    open_store(tmp_path).forget_scope("alice")
    assert kept_in(tmp_path) == ["bob", "bob"]
    assert len(held) == 4
    for file in held:
        with file:
            assert not any(file.read())
    again = keeper.segments.generation("alice/salted")
    assert keep(keeper, named("alice"), generation=again), "a person that comes back is served"


def test_a_save_in_flight_brings_nothing_of_a_forgotten_scope_back(keeper, tmp_path):
    planned = keeper.segments.generation("alice")

    def slow():
        yield from layers_of(SHAPE)
        open_store(tmp_path).forget_scope("alice")

    assert not keep(keeper, named("k"), layers=slow(), generation=planned)
    assert not keep(keeper, named("l"), generation=planned)
    assert kept_in(tmp_path) == []
    assert keep(keeper, named("m", "bob"), generation=keeper.segments.generation("bob"))


@pytest.mark.parametrize("late", [3, 1])
def test_a_late_order_takes_no_deletion_back(keeper, late):
    keeper.segments.forget("a")
    keeper.segments.forget("a", late)
    assert not keep(keeper, named("k"), ("a@4",))


def test_a_late_order_takes_no_newer_change_back(keeper):
    keeper.segments.forget("a", 10)
    keeper.segments.forget("a", 9)
    assert not keep(keeper, named("k"), ("a@9",))
    assert keep(keeper, named("k"), ("a@10",))


def test_a_copy_in_memory_is_forgotten_long_after_its_file_on_disk_went(keeper, tmp_path):
    keep(keeper, named("k"))
    keeper.segments.disk.wipe(str(named("k")))
    for path in filter(Path.is_file, (tmp_path / "kv" / "cubes").rglob("*")):
        _age(path, 2 * 86_400)
    keeper.segments.sweep()
    assert keeper.segments.where(named("k")) == "ram"
    assert open_store(tmp_path).forget("a") == 1
    assert kept_in(tmp_path) == []


def test_uses_count_from_the_first_one_after_a_restart(keeper, tmp_path):
    keep(keeper, named("k"))
    again = open_keeper(tmp_path)
    for _ in range(2):
        read(again, named("k"))
    assert again.segments.ram is not None
    assert again.segments.ram.hits(str(named("k"))) == 2


def test_shared_memory_that_was_removed_is_made_again(keeper, tmp_path):
    keep(keeper, named("k"))
    keeper.segments.empty_memory()
    for _ in range(2):
        read(keeper, named("k"))
    keeper.promote(named("k"))
    assert keeper.segments.where(named("k")) == "ram"


def test_a_client_s_salt_has_other_keys_in_the_same_folder():
    scopes = Scopes(b"secret", "person")
    alice = principal("alice")
    chains = [[Segment(16, scopes.person(alice, salt))] for salt in (None, "one", "two")]
    names = [Namer(MODEL).names(range(16), chain)[0][0] for chain in chains]
    assert len({name.scope for name in names}) == 1
    assert len({name.key for name in names}) == 3


# -- sweeping -------------------------------------------------------------------------------------


def _age(path: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_sweeping_removes_leftovers_and_stale_marks_and_nothing_else(keeper, tmp_path):
    keep(keeper, named("k"))
    keep(keeper, named("evicted"))
    keeper.segments.pin("a")
    for tier in keeper.segments.tiers():
        tier.wipe(str(named("evicted")))
        for name, age in ((".old.tmp", 3600), (".young.tmp", 10)):
            (tier.folder / "model").mkdir(exist_ok=True)
            (tier.folder / "model" / name).touch()
            _age(tier.folder / "model" / name, age)
    keeper.segments.forget("young")
    keeper.segments.forget("old")
    gone = tmp_path / "kv" / "gone"
    marks = [p for kind in ("cubes", "contexts") for p in (tmp_path / "kv" / kind).rglob("*")]
    for path in [*filter(Path.is_file, marks), gone / short("old")]:
        _age(path, 2 * 86_400)
    young = keeper.segments.mark("a@1", named("on its way"))
    young.touch()
    open_keeper(tmp_path).segments.sweep()
    assert sorted(p.name for p in tmp_path.rglob("*.tmp")) == [".young.tmp"] * 2
    assert [path.name for path in gone.iterdir()] == [short("young")]
    left = {path.name for path in marks if path.is_file()}
    assert left == {named("k").mark}
    assert young.exists()
    assert keeper.segments.where(named("k")) == "ram"
