"""Stored KV as a source, adapters that stand for their sources, records of ended jobs."""

from __future__ import annotations

import hashlib

import pytest
import torch

from memos_vllm.activation.chain import own_digest
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    State,
)
from memos_vllm.errors import NotFound, Unprocessable
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill, Recover
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.sources import read_sources
from memos_vllm.vault.transform_rows import JobState
from tests.conftest import principal
from tests.unit.test_transforms import adapter, text

# -- stored KV and its text ----------------------------------------------------------------------------


class FakeKV:
    """An engine whose tokens are a text's characters."""

    def build(self, principal, cube): ...

    def export(self, principal, cubes, file):
        raise AssertionError

    def digest(self, cube):
        return own_digest([ord(letter) for item in cube.items for letter in item.text])


def keep(system, cube, scope, said="The sky is green.", sequence=1):
    """Store a segment as a worker does; returns its key."""
    keeper = TensorStore(system.segments)
    key = hashlib.sha256(f"{cube}{scope}{said}".encode()).hexdigest()[:40]
    shape = Shape(1, 2, 1, 4, torch.float32)
    about = {"digest": own_digest([ord(letter) for letter in said]), "scope": scope}
    cubes = [f"{cube}@{sequence}"] if cube else []
    layers = [torch.zeros(2, 2, 1, 4)]
    assert keeper.add(SegmentName.of(b"model", scope, key), shape, layers, cubes, about)
    return key


def recovered(system, who, key):
    job = submit.recover(system, who, key, Recover(name="back"))
    runner = JobRunner(system, ("model", None), kept=FakeKV())
    report = runner.do(runner.claim(job.id))
    return system.transforms.get(who, job.id), report


def test_kv_becomes_the_text_that_it_was_computed_from(system):
    ann = principal("ann")
    cube = text(system, ann)
    key = keep(system, cube, system.scopes.person(ann))
    job, _ = recovered(system, ann, key)
    assert job.state is JobState.DONE
    made = system.vault.get(ann, job.made)
    assert [item.text for item in made.payload.content] == ["The sky is green."]
    assert made.meta.provenance.parents == [cube]
    assert (made.meta.state, made.meta.person) == (State.GENERATED, "ann")
    deletion, _ = system.delete(ann, cube, cascade=True)
    assert [gone.cube for gone in deletion.gone] == [made.meta.id]


def test_kv_without_text_is_refused_with_a_reason(system):
    ann = principal("ann")
    mine = system.scopes.person(ann)
    with pytest.raises(Unprocessable, match=r"no cube stands in this KV.*never the text"):
        submit.recover(system, ann, keep(system, "", mine), Recover())
    cube = text(system, ann)
    job, report = recovered(system, ann, keep(system, cube, mine, said="What was said behind."))
    assert job.state is JobState.FAILED
    assert "not those of the cube's text" in report.reasons[0]
    job, report = recovered(system, ann, keep(system, cube, mine, sequence=7))
    assert "version 7" in report.reasons[0]


def test_kv_of_another_person_looks_like_absent_kv(system):
    ann = principal("ann")
    key = keep(system, text(system, ann), system.scopes.person(ann))
    for name in (key, "0" * 40):
        with pytest.raises(NotFound, match="there is no kept KV"):
            submit.recover(system, principal("bob"), name, Recover())


def test_without_an_engine_jobs_that_need_kept_kv_say_so(system, monkeypatch):
    ann = principal("ann")
    cube = text(system, ann)
    runner = JobRunner(system, ("model", None))
    job = submit.distill(system, ann, cube, Distill(teacher="kv"))
    report = runner.do(runner.claim(job.id))
    assert "no engine with a KV tier" in report.reasons[0]
    assert system.transforms.get(ann, job.id).state is JobState.FAILED


# -- records of ended jobs -----------------------------------------------------------------------------


def test_records_of_old_jobs_are_deleted_unless_their_product_exists(system):
    ann = principal("ann")
    cube = text(system, ann)
    jobs = [submit.distill(system, ann, cube, Distill()) for _ in range(3)]
    for job in jobs[:2]:
        system.transforms.claim(job.id)
    system.transforms.end(jobs[0].id, JobState.FAILED, {}, None)
    system.transforms.end(jobs[1].id, JobState.DONE, {}, cube)
    assert system.transforms.forget_ended(0) == 0
    assert system.transforms.forget_ended(now_us() + 1) == 1
    assert {job.id for job in system.transforms.page(ann)} == {jobs[1].id, jobs[2].id}


# -- adapters of several sources -----------------------------------------------------------------------


def test_an_adapter_stands_for_its_sources(system):
    ann = principal("ann")
    one, two = text(system, ann, "One."), text(system, ann, "Two.")
    first, second = adapter(system, ann, [one]), adapter(system, ann, [two])
    assert read_sources(system.vault, ann, [first, second]).ids == [one, two]
    with pytest.raises(Unprocessable, match="an adapter"):
        read_sources(system.vault, ann, [adapter(system, ann, [])])


def test_an_adapter_of_all_sources_replaces_the_adapters_of_each(system):
    ann = principal("ann")
    texts = [text(system, ann, f"Text {number}.") for number in range(3)]
    parts = [adapter(system, ann, [each]) for each in texts]

    def found(who=ann, count=2):
        cubes = [system.views.adapter(ann, part) for part in parts[:count]]
        whole = system.views.learnt_together(who, cubes)
        return whole and whole.cube_id

    assert found() is None
    everything = adapter(system, ann, texts)
    assert found() == everything
    both = adapter(system, ann, texts[:2])
    assert found() == both, "the smallest one"
    assert found(count=3) == everything
    assert found(principal("bob")) is None
    system.update(ann, texts[0], CubePatch(payload=ExplicitPayload(content="Another.")))
    assert found() is None, "both are stale"
