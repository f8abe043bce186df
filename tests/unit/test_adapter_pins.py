"""Pins of adapters: files that every process sees, wherever version 0.1 kept them."""

from __future__ import annotations

from memos_vllm.activation.tombstones import short
from memos_vllm.cube.ids import CubeId
from memos_vllm.parametric.adapter.pins import AdapterPins


def test_a_pin_is_seen_by_another_process_and_removed(tmp_path):
    ours, theirs = (AdapterPins(tmp_path / "pins", tmp_path / "older") for _ in range(2))
    assert "cube-1" not in ours
    ours.add("cube-1")
    assert "cube-1" in theirs
    assert "cube-2" not in theirs
    theirs.remove("cube-1")
    theirs.remove("cube-1")
    assert "cube-1" not in ours


def test_a_pin_of_the_older_version_holds_until_it_is_removed(tmp_path):
    """Version 0.1 kept pins of adapters beside those of KV segments."""
    older = tmp_path / "kv" / "pins"
    older.mkdir(parents=True)
    (older / short("cube-1")).touch()
    pins = AdapterPins(tmp_path / "pins", older)
    assert "cube-1" in pins
    pins.remove("cube-1")
    assert "cube-1" not in pins
    assert list(older.iterdir()) == []


def test_a_deleted_cube_is_unpinned(system):
    from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
    from tests.conftest import principal

    alice = principal()
    cube = system.create(alice, [NewCube(meta=NewMeta(), payload=ExplicitPayload(content="a"))])[0]
    system.adapter_pins.add(CubeId(cube.meta.id))
    system.delete(alice, cube.meta.id)
    assert cube.meta.id not in system.adapter_pins
