"""Parametric cubes in the vault, and the choice of adapters for a request."""

from __future__ import annotations

import dataclasses

import pytest

from memos_vllm.cube.ids import Sha256
from memos_vllm.cube.model import CubePatch, Kind, NewCube, NewMeta, ParametricPayload, Placement
from memos_vllm.errors import NotFound, QuotaExceeded, Unprocessable
from memos_vllm.options import MemoryOptions
from memos_vllm.parametric.adapter.packed import unpack
from memos_vllm.scheduler.attachment import choose, merged
from memos_vllm.vault.views import AdapterCube
from tests.adapters import small
from tests.conftest import principal


def new(name: str = "style", seed: int = 0, **meta) -> NewCube:
    payload = ParametricPayload(content=small(seed))
    return NewCube(meta=NewMeta(name=name, **meta), payload=payload)


@pytest.fixture
def ann():
    return principal("ann")


# -- the vault -------------------------------------------------------------------------------------


def test_an_adapter_is_shown_without_its_weights(system, ann):
    made = system.create(ann, [new()])[0]
    assert made.meta.kind is Kind.PARAMETRIC
    assert made.payload.content["rank"] == 4
    assert made.payload.content["modules"] == 4
    assert "adapter_model" not in made.payload.content
    assert system.vault.get(ann, "style").payload == made.payload
    assert unpack(system.vault.file(ann, "style")).config.r == 4


def test_a_new_version_is_another_adapter_and_a_rollback_restores_it(system, ann):
    first = system.create(ann, [new()])[0]
    second = system.update(ann, "style", CubePatch(payload=new(seed=1).payload))
    assert second.payload.content["adapter"] != first.payload.content["adapter"]
    back = system.rollback(ann, "style", first.meta.version)
    assert back.payload.content == first.payload.content
    assert [v.action for v in system.vault.history(ann, "style")] == [
        "rollback",
        "update",
        "create",
    ]


def test_a_change_of_the_header_keeps_the_adapter(system, ann):
    first = system.create(ann, [new()])[0]
    moved = system.update(ann, "style", CubePatch(placement=Placement.STABLE))
    assert moved.payload.content == first.payload.content


def test_a_cube_keeps_its_kind(system, ann):
    system.create(ann, [new()])
    from memos_vllm.cube.model import ExplicitPayload, Item

    with pytest.raises(Unprocessable, match="keeps its kind"):
        system.update(ann, "style", CubePatch(payload=ExplicitPayload(content="text")))
    with pytest.raises(Unprocessable, match="appended"):
        system.update(ann, "style", CubePatch(append=[Item(text="text")]))
    with pytest.raises(Unprocessable, match="compared"):
        system.vault.diff(ann, "style", system.vault.get(ann, "style").meta.version)


def test_another_person_and_another_tenant_do_not_get_it(system, ann):
    system.create(ann, [new()])
    for other in (principal("bob"), principal("ann", "globex")):
        assert system.views.adapters(other) == []
        with pytest.raises(NotFound):
            system.views.stable(other, ["style"])
        with pytest.raises(NotFound):
            system.vault.file(other, "style")


def test_an_adapter_is_found_by_name_but_not_placed(system, ann):
    made = system.create(ann, [new()])[0]
    found = system.views.stable(ann, ["style"])
    assert found.texts == []
    assert [c.cube_id for c in found.adapters] == [made.meta.id]
    assert found.adapters[0].digest == made.payload.content["adapter"]
    assert system.views.stable(ann, []).adapters == [], "it is not placed"


def test_deletion_removes_all_files(system, ann):
    made = system.create(ann, [new()])[0]
    system.delete(ann, "style")
    assert system.views.adapter_payloads() == set()
    with pytest.raises(NotFound):
        system.vault.get(ann, made.meta.id)


def test_an_exported_adapter_can_be_stored_again(system, ann):
    made = system.create(ann, [new()])[0]
    whole = system.portable(ann, "style")
    again = system.create(ann, [NewCube(meta=NewMeta(name="copy"), payload=whole.payload)])[0]
    assert again.payload.content == made.payload.content


def test_a_tenant_s_adapters_have_a_limit(config, ann):
    from memos_vllm.system import MemorySystem
    from tests.conftest import make_config

    size = len(MemorySystem(config)._checked(ann, new().payload)._file)
    limits = {"adapters_bytes_per_tenant": 2 * size}
    system = MemorySystem(make_config(config.home, limits=limits)).open()
    system.create(ann, [new("a"), new("b", seed=1)])
    with pytest.raises(QuotaExceeded, match="bytes of adapters is full"):
        system.create(ann, [new("c", seed=2)])
    system.create(principal("ann", "globex"), [new("c", seed=2)])
    system.delete(ann, "a")
    system.create(ann, [new("c", seed=2)])
    system.close()


# -- the plan --------------------------------------------------------------------------------------


def cube(number: int, **given) -> AdapterCube:
    made = AdapterCube(
        cube_id=f"c{number}",
        name=f"n{number}",
        version=f"v{number}",
        sequence=1,
        tenant="acme",
        person="ann",
        priority=0,
        placement=Placement.STABLE,
        digest=Sha256(f"{number}" * 64),
        model=None,
        created_us=number,
    )
    return dataclasses.replace(made, **given)


def served(_: AdapterCube) -> None:
    return None


def chosen(offered, problem=served, /, **options) -> str | None:
    found, _ = choose(offered, MemoryOptions(**options), problem)
    assert len(found) <= 1
    return found[0].cube_id if found else None


def test_the_order_is_request_then_priority_then_the_persons_own():
    cubes = [cube(1, person=""), cube(2), cube(3, priority=5), cube(4, priority=-1)]
    assert chosen(cubes) == "c3"
    assert chosen(cubes[:2]) == "c2"
    assert chosen(cubes, cubes=("n4", "c1")) == "c4"
    assert chosen(cubes, cubes=("n4",), adapter="c1") == "c1"
    assert chosen(cubes, adapter=False) is None
    assert chosen([]) is None


def test_the_plan_has_a_decision_for_each_adapter():
    _, entries = choose([cube(1), cube(2)], MemoryOptions(), served)
    assert [(e.cube, e.decision) for e in entries] == [("c1", "used"), ("c2", "rejected")]
    assert "n1 is it" in entries[1].reason
    assert {e.form for e in entries} == {"adapter"}
    assert {e.kind for e in entries} == {Kind.PARAMETRIC}


def test_several_adapters_are_chosen_where_they_can_be_merged():
    cubes = [cube(n) for n in range(1, 5)]
    found, entries = choose(cubes, MemoryOptions(cubes=("n3", "n2")), served, 3)
    assert [c.cube_id for c in found] == ["c3", "c2", "c1"]
    assert [e.decision for e in entries] == ["used", "rejected", "rejected", "rejected"]
    assert entries[1].reason == "being merged with n3, for the next requests"
    merged(entries, found)
    assert [e.decision for e in entries] == ["used", "used", "used", "rejected"]
    assert entries[1].reason == "merged with n3, n1"
    found, _ = choose(cubes, MemoryOptions(adapter="n2"), served, 3)
    assert [c.cube_id for c in found] == ["c2"], "an adapter named in `adapter` comes alone"


def test_an_unusable_adapter_is_skipped_unless_the_request_names_it():
    def problem(of: AdapterCube) -> str | None:
        return "made for another model" if of.cube_id == "c1" else None

    assert chosen([cube(1), cube(2)], problem) == "c2"
    with pytest.raises(Unprocessable, match="made for another model"):
        choose([cube(1), cube(2)], MemoryOptions(adapter="n1"), problem)


def test_a_cube_of_text_is_no_adapter():
    with pytest.raises(Unprocessable, match="parametric"):
        choose([], MemoryOptions(adapter="notes"), served)
