"""Names of segments and of cubes' versions, and a store whose names an older version wrote."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.quality import Quality
from memos_vllm.cube.ids import CubeVersion
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_store import SHAPE, keep, open_keeper, read


@pytest.mark.parametrize("rank", ["", "1of2"])
def test_a_segment_s_name_is_read_from_its_path_and_from_its_mark(rank):
    name = SegmentName.of(b"model", "alice/salted", "ab" * 20, rank)
    assert SegmentName.parse(str(name)) == SegmentName.parse(name.mark) == name
    assert "/" not in name.mark


@pytest.mark.parametrize("text", ["", "key", "model/key", "a/b/c/d", "a+b"])
def test_another_file_has_no_segment_s_name(text):
    with pytest.raises(ValueError, match="values to unpack"):
        SegmentName.parse(text)


def test_a_version_is_read_from_its_text():
    assert CubeVersion.parse("cube_1@7") == CubeVersion("cube_1", 7)
    assert str(CubeVersion("an@cube", 7)) == "an@cube@7"
    assert CubeVersion.parse("an@cube@7") == CubeVersion("an@cube", 7)


@pytest.mark.parametrize("text", ["", "cube", "cube@", "cube@x"])
def test_another_text_is_no_version(text):
    with pytest.raises(ValueError, match=r"is not <cube id>|invalid literal"):
        CubeVersion.parse(text)


MODEL, SCOPE, KEY = "000102030405060f", "c1a9b8f1d5f4e3a2b1c0d9e8", "ab" * 20
CUBE = "ca978112ca1bbdcafac231b3"
"""Digest of the cube `a`, as the first version of the store named its folder."""
MARK = f"{MODEL}+{SCOPE}+{KEY}"


def older_store(folder) -> SegmentName:
    """A store with the names that were written before `SegmentName.parse` existed."""
    keeper = open_keeper(folder)
    made = SegmentName("made", "by", "today")
    assert keep(keeper, made)
    tiers = keeper.segments.tiers()
    shutil.rmtree(folder / "kv" / "cubes")
    for tier in tiers:
        path = tier.path(str(made))
        target = tier.folder / MODEL / SCOPE / f"{KEY}.safetensors"
        target.parent.mkdir(parents=True)
        content = path.read_bytes()
        path.unlink()
        target.write_bytes(content)
    for where in (f"cubes/{CUBE}", "contexts/di/digest", "quality"):
        (folder / "kv" / where).mkdir(parents=True, exist_ok=True)
        (folder / "kv" / where / MARK).touch()
    quality = '{"probes": 3, "kl": 0.1, "top1": 1.0, "cube": "a", "behind": 1}'
    (folder / "kv" / "quality" / MARK).write_text(quality)
    return SegmentName(MODEL, SCOPE, KEY)


def test_a_store_of_an_older_version_is_found_measured_and_forgotten(tmp_path):
    name = older_store(tmp_path)
    segments = open_keeper(tmp_path).segments
    assert segments.where(name) == "ram"
    assert segments.named(KEY) == [name]
    assert segments.contexts("digest") == [name]
    assert list(segments.sizes("a")) == [name]
    assert segments.qualities("a", segments.sizes("a")) == [Quality(3, 0.1, 1.0, "a", 1)]
    segments.pin("a")
    assert segments.pinned() == {f"{MODEL}/{SCOPE}/{KEY}"}
    assert segments.forget("a") == 1
    assert segments.where(name) is None
    assert not (tmp_path / "kv" / "quality" / MARK).exists()


def test_files_of_other_programs_among_the_marks_stop_no_deletion(tmp_path, caplog):
    keeper = open_keeper(tmp_path)
    name = SegmentName("model", "scope", "key")
    assert keep(keeper, name)
    assert torch.equal(read(keeper, name)[0], torch.stack(layers_of(SHAPE)))
    foreign = keeper.segments.mark("a@1", name).with_name(".nfs0001")
    foreign.touch()
    assert list(keeper.segments.sizes("a")) == [name]
    assert keeper.segments.forget("a") == 1
    assert keeper.segments.where(name) is None
    assert ".nfs0001 is not the mark of a segment" in caplog.text
    os.utime(foreign, (0, 0))
    keeper.segments.sweep()
    assert not foreign.exists()
