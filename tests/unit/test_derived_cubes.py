"""Derived cubes: stale marks, cascades, readers, and the versions that they were made from."""

from __future__ import annotations

from typing import Any

import pytest

from memos_vllm.cube.model import (
    Access,
    CubePatch,
    Item,
    ParametricPayload,
    Provenance,
    State,
)
from memos_vllm.errors import Forbidden, NotFound, Unprocessable
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill
from memos_vllm.vault import deleting
from memos_vllm.vault.transform_rows import JobState
from tests.adapters import small
from tests.conftest import principal
from tests.unit.test_transforms import ADMIN, adapter, text


def test_a_changed_source_marks_derived_cubes_as_stale(system):
    ann = principal("ann")
    source = text(system, ann)
    made = adapter(system, ann, [source], name="lora")
    of_that = text(system, ann, name="words", provenance=Provenance(parents=[made]))
    other = text(system, ann, "The sea is red.")
    assert system.vault.get(ann, "lora").meta.stale == []
    system.update(ann, source, CubePatch(tags=["seen"]))
    assert system.vault.get(ann, "lora").meta.stale == [], "the text is unchanged"
    system.update(ann, source, CubePatch(append=[Item(text="The grass is blue.")]))
    assert system.vault.get(ann, "lora").meta.stale == [source]
    assert system.vault.get(ann, of_that).meta.stale == [source]
    assert system.vault.get(ann, other).meta.stale == []
    again = CubePatch(
        payload=ParametricPayload(content=small(1)), provenance=Provenance(parents=[source])
    )
    assert system.update(ann, "lora", again).meta.stale == []


def test_deleting_a_source_marks_derived_cubes_and_cascade_deletes_them(system):
    ann = principal("ann")
    source, kept = text(system, ann), text(system, ann, "The sea is red.")
    made = adapter(system, ann, [source, kept])
    words = text(system, ann, name="words", provenance=Provenance(parents=[made]))
    deletion, _ = system.delete(ann, kept)
    assert deletion.stale == [made, words]
    assert system.vault.get(ann, made).meta.stale == [kept]
    deletion, _ = system.delete(ann, source, cascade=True)
    assert {orphan.cube for orphan in deletion.gone} == {made, words}
    for gone in (source, made, words):
        with pytest.raises(NotFound):
            system.vault.get(ann, gone)


def test_a_cascade_that_is_not_allowed_deletes_nothing(system):
    source = text(system, ADMIN, shared=True, access=Access(writers="tenant"))
    made = adapter(system, ADMIN, [source], shared=True)
    with pytest.raises(Forbidden):
        system.delete(principal("ann"), source, cascade=True)
    assert system.vault.get(ADMIN, source).meta.id == source
    assert system.vault.get(ADMIN, made).meta.stale == []


def test_an_adapter_of_several_sources_is_made_again_from_the_rest(system):
    ann = principal("ann")
    source, kept = text(system, ann), text(system, ann, "The sea is red.")
    wish = Distill(also=[kept], name="lora", recipe={"rank": 4})
    job = submit.distill(system, ann, source, wish)
    system.transforms.claim()
    made = adapter(system, ann, [source, kept], name="lora")
    system.transforms.end(job.id, JobState.DONE, {}, made)
    deletion, _ = system.delete(ann, source, cascade=True)
    again = system.transforms.get(ann, deletion.jobs[0])
    assert (again.sources, again.state) == ((kept,), JobState.QUEUED)
    assert again.request["name"] == "lora"
    assert again.request["recipe"]["rank"] == 4
    assert Distill.model_validate(without_cube(again.request)).also == []
    deletion, _ = system.delete(ann, kept, cascade=True)
    assert deletion.jobs == []
    assert system.transforms.page(ann) == [], "its job read what is deleted"


def test_a_deletion_that_is_rolled_back_trains_nothing_again(system, monkeypatch):
    ann = principal("ann")
    source, kept = text(system, ann), text(system, ann, "The sea is red.")
    job = submit.distill(system, ann, source, Distill(also=[kept], name="lora"))
    made = adapter(system, ann, [source, kept], name="lora")
    system.transforms.claim()
    system.transforms.end(job.id, JobState.DONE, {}, made)

    def killed(*_: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deleting, "order_again", killed)
        with pytest.raises(KeyboardInterrupt):
            system.delete(ann, source, cascade=True)
    assert system.vault.get(ann, made).meta.id == made
    assert [each.id for each in system.transforms.page(ann)] == [job.id]
    deletion, _ = system.delete(ann, made, remake=True)
    assert system.transforms.get(ann, deletion.jobs[0]).sources == tuple(sorted((kept, source)))


def without_cube(request: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key != "cube"}


def test_a_derived_cube_has_no_more_readers_than_its_sources(system):
    source = text(system, ADMIN, shared=True, access=Access(readers=["ann", "bob"]))
    with pytest.raises(Unprocessable, match="not all of its readers"):
        adapter(system, ADMIN, [source], shared=True)
    made = adapter(system, ADMIN, [source], shared=True, access=Access(readers=["ann"]))
    with pytest.raises(Unprocessable, match="not all of its readers"):
        system.update(ADMIN, made, CubePatch(access=Access()))
    system.update(ADMIN, made, CubePatch(access=Access(readers=["bob"])))
    own = text(system, principal("ann"))
    with pytest.raises(Unprocessable, match="not all of its readers"):
        adapter(system, ADMIN, [own], person="bob")


def test_narrowing_a_source_narrows_its_derived_cubes(system):
    source = text(system, ADMIN, shared=True)
    shared = adapter(system, ADMIN, [source], shared=True)
    words = text(system, ADMIN, shared=True, provenance=Provenance(parents=[shared]))
    mine, theirs = (adapter(system, principal(who), [source], name="own") for who in ("ann", "bob"))
    system.update(ADMIN, source, CubePatch(access=Access(readers=["ann"])))
    for cube in (shared, words):
        assert system.vault.get(ADMIN, cube).meta.access.readers == ["ann"]
    assert system.views.adapter(principal("bob"), shared) is None
    assert system.views.adapter(principal("ann"), shared) is not None
    assert system.vault.get(ADMIN, theirs).meta.state is State.ARCHIVED
    assert system.vault.get(ADMIN, mine).meta.state is State.ACTIVATED


def test_sources_of_older_versions_stay_recorded(system):
    ann = principal("ann")
    first, second = text(system, ann), text(system, ann, "The sea is red.")
    made = adapter(system, ann, [first])
    again = ParametricPayload(content=small(1))
    system.update(ann, made, CubePatch(payload=again, provenance=Provenance(parents=[second])))
    deletion, _ = system.delete(ann, first, cascade=True)
    assert [orphan.cube for orphan in deletion.gone] == [made], "a rollback would bring it back"


def test_naming_a_parent_does_not_reveal_whether_it_exists(system):
    hidden = text(system, principal("ann"))
    made = text(system, principal("bob"), provenance=Provenance(parents=[hidden, "cube_none"]))
    system.update(principal("ann"), hidden, CubePatch(append=[Item(text="More.")]))
    assert system.vault.get(principal("bob"), made).meta.stale == []
