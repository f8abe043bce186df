"""Transforms: permissions, visibility, leases, leaks, the API."""

from __future__ import annotations

from unittest import mock

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import (
    Access,
    ExplicitPayload,
    NewCube,
    NewMeta,
    ParametricPayload,
    Provenance,
)
from memos_vllm.errors import Conflict, Forbidden, IndexUnavailable, NotFound, Unprocessable
from memos_vllm.governance.principal import Role
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Decode, Distill
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.sources import leaks, read_sources
from memos_vllm.transforms.worker import sweep
from memos_vllm.vault.jobs import MAX_ATTEMPTS
from memos_vllm.vault.transform_records import LeaseLost, Transforms
from memos_vllm.vault.transform_rows import JobState
from tests.adapters import small
from tests.conftest import principal

ADMIN = principal("", role=Role.ADMIN)


def text(system, who, content="The sky is green.", **meta):
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))
    return system.create(who, [new])[0].meta.id


def adapter(system, who, parents, **meta):
    new = NewCube(
        meta=NewMeta(provenance=Provenance(origin="transform:distill", parents=parents), **meta),
        payload=ParametricPayload(content=small()),
    )
    return system.create(who, [new])[0].meta.id


# -- owner and readers of a product --------------------------------------------------------------------


def test_the_narrowest_owner_of_the_sources_owns_the_product(system):
    shared = text(system, ADMIN, shared=True)
    own = text(system, principal("ann"))
    assert read_sources(system.vault, ADMIN, [shared]).person == ""
    assert read_sources(system.vault, principal("ann"), [shared, own]).person == "ann"


def test_sources_of_two_people_are_refused(system):
    ids = [text(system, principal(person)) for person in ("ann", "bob")]
    with pytest.raises(Unprocessable, match="2 people"):
        read_sources(system.vault, ADMIN, ids)


def test_only_readers_of_every_source_may_read_the_product(system):
    ids = [
        text(system, ADMIN, shared=True, access=Access(readers=readers))
        for readers in (["ann", "bob"], ["bob", "cid"], None)
    ]
    assert read_sources(system.vault, ADMIN, ids).access.readers == ["bob"]
    own = text(system, principal("cid"))
    with pytest.raises(Unprocessable, match="cid may not read"):
        read_sources(system.vault, ADMIN, [ids[0], own])


def test_a_reader_trains_nothing_and_a_writer_not_for_the_tenant(system):
    shared = text(system, ADMIN, shared=True)
    with pytest.raises(Forbidden):
        submit.distill(system, principal("ann", role=Role.READER), shared, Distill())
    with pytest.raises(Forbidden):
        submit.distill(system, principal("ann"), shared, Distill())


def test_an_impossible_request_is_refused_before_training(system):
    ann = principal("ann")
    own = text(system, ann, name="notes")
    lora = adapter(system, ann, [], name="lora")
    with pytest.raises(NotFound):
        submit.distill(system, ann, "nothing", Distill())
    with pytest.raises(Unprocessable, match="holds no text"):
        submit.distill(system, ann, lora, Distill())
    with pytest.raises(Conflict, match="lora"):
        submit.distill(system, ann, own, Distill(name="lora"))
    with pytest.raises(Unprocessable, match="cube of text"):
        submit.distill(system, ann, own, Distill(into="notes"))
    with pytest.raises(Unprocessable, match="text already"):
        submit.decode(system, ann, own, Decode())
    with pytest.raises(Unprocessable, match="activated"):
        submit.decode(system, ann, lora, Decode(kv=True))
    assert system.transforms.page(ann) == []


# -- jobs ----------------------------------------------------------------------------------------------


def test_a_job_is_visible_to_its_submitter_and_to_admins_only(system):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill(name="known"))
    assert system.transforms.get(ann, job.id).request["name"] == "known"
    assert [each.id for each in system.transforms.page(ADMIN)] == [job.id]
    for other in (
        principal("bob"),
        principal("ann", "globex"),
        principal("", "globex", Role.ADMIN),
    ):
        assert system.transforms.page(other) == []
        with pytest.raises(NotFound):
            system.transforms.get(other, job.id)
        with pytest.raises(NotFound):
            system.transforms.cancel(other, job.id)


def end_leases(system):
    """End all leases, as if their processes had died."""
    with system.database.write() as session:
        session.execute(sa.text("UPDATE jobs SET leased_until_us = 0"))


def test_a_job_is_claimed_once_and_again_after_the_lease_of_a_dead_process(system):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill())
    claimed = system.transforms.claim()
    assert (claimed.id, claimed.state, claimed.principal) == (job.id, JobState.RUNNING, ann)
    other = Transforms(system.database)
    assert system.transforms.claim() is None
    assert other.claim() is None
    end_leases(system)
    assert other.claim().id == job.id
    other.release(job.id)
    assert system.transforms.get(ann, job.id).state is JobState.QUEUED


def test_a_process_that_lost_its_lease_stores_nothing(system):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill())
    system.transforms.claim()
    end_leases(system)
    other = Transforms(system.database)
    assert other.claim().id == job.id
    with pytest.raises(LeaseLost):
        system.transforms.seen(job.id, {})
    with pytest.raises(LeaseLost), system.database.write() as session:
        system.transforms.still_running(job.id)(session)
    assert not system.transforms.end(job.id, JobState.DONE, {}, None)
    assert other.seen(job.id, {"phase": "training"})
    assert other.end(job.id, JobState.DONE, {}, None)
    assert system.transforms.get(ann, job.id).state is JobState.DONE
    assert system.jobs.counts() == {}


def test_a_transform_whose_process_dies_in_each_attempt_fails_and_says_so(system):
    ann = principal("ann")
    cube = text(system, ann)
    job, next_job = (submit.distill(system, ann, cube, Distill()) for _ in range(2))
    for _ in range(MAX_ATTEMPTS):
        assert system.transforms.claim().id == job.id
        end_leases(system)
    assert system.transforms.claim().id == next_job.id
    failed = system.transforms.get(ann, job.id)
    assert failed.state is JobState.FAILED
    assert "8 attempts failed" in failed.report["reasons"][0]


def test_an_interrupted_transform_is_due_at_once_and_loses_no_attempt(system):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill())
    for _ in range(2 * MAX_ATTEMPTS):
        assert system.transforms.claim().id == job.id
        system.transforms.release(job.id)
    assert system.transforms.get(ann, job.id).state is JobState.QUEUED


def test_a_transform_that_found_a_part_unavailable_is_tried_again(system, monkeypatch):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill())
    runner = JobRunner(system, ("model", None))
    away = mock.Mock(side_effect=IndexUnavailable("away"))
    monkeypatch.setattr(runner, "_work", away)
    with pytest.raises(IndexUnavailable):
        runner.do(runner.claim())
    assert system.transforms.get(ann, job.id).state is JobState.QUEUED
    assert runner.claim() is None, "a pause comes first"
    assert runner.claim(job.id).id == job.id, "a claim by id does not wait"


def test_the_oldest_job_is_done_first(system):
    ann = principal("ann")
    cube = text(system, ann)
    jobs = [submit.distill(system, ann, cube, Distill()).id for _ in range(3)]
    assert [system.transforms.claim().id for _ in jobs] == jobs


def test_a_cancelled_job_is_noticed_and_ends_nothing_else(system):
    ann = principal("ann")
    job = submit.distill(system, ann, text(system, ann), Distill())
    system.transforms.claim()
    assert system.transforms.seen(job.id, {"phase": "training"})
    assert system.transforms.get(ann, job.id).progress == {"phase": "training"}
    assert system.transforms.cancel(ann, job.id).state is JobState.CANCELLED
    assert not system.transforms.seen(job.id, {})
    assert not system.transforms.end(job.id, JobState.DONE, {}, None)
    with pytest.raises(Conflict, match="has ended"):
        system.transforms.cancel(ann, job.id)


def test_deleting_a_source_deletes_the_job_and_its_folder(system):
    ann = principal("ann")
    cube = text(system, ann)
    job = submit.distill(system, ann, cube, Distill())
    system.transforms.claim()
    folder = system.config.training_path / job.id
    folder.mkdir(parents=True)
    sweep(system)
    assert folder.exists()
    system.delete(ann, cube)
    assert not system.transforms.seen(job.id, {})
    with pytest.raises(NotFound):
        system.transforms.get(ann, job.id)
    sweep(system)
    assert not folder.exists()


def test_open_jobs_of_a_tenant_are_limited(system):
    ann = principal("ann")
    cube = text(system, ann)
    jobs = [submit.distill(system, ann, cube, Distill()) for _ in range(16)]
    with pytest.raises(Conflict, match="jobs_per_tenant"):
        submit.distill(system, ann, cube, Distill())
    other = principal("ann", "globex")
    submit.distill(system, other, text(system, other), Distill())
    system.transforms.cancel(ann, jobs[0].id)
    submit.distill(system, ann, cube, Distill())


def test_a_deletion_names_only_stale_cubes_that_the_caller_may_read(system):
    source = text(system, ADMIN, shared=True, access=Access(writers="tenant"))
    adapter(system, principal("bob"), [source])
    mine = adapter(system, principal("ann"), [source])
    deletion, _ = system.delete(principal("ann"), source)
    assert deletion.stale == [mine]


# -- leaks ---------------------------------------------------------------------------------------------


def test_a_run_of_words_of_a_hidden_text_is_found():
    secret = "The code of the safe behind the painting is four seven one one."
    said = ["Well. The code of the safe behind the painting is four seven."]
    assert len(leaks(said, [secret], ["Nothing of it."])) == 3
    assert leaks(said, [secret], [secret]) == [], "the sources have it"
    assert leaks(["The code of the safe."], [secret], []) == [], "a run is eight words"


def test_hidden_texts_are_those_that_not_all_readers_may_read(system):
    text(system, principal("ann"), "Ann's.")
    text(system, principal("bob"), "Bob's.")
    text(system, ADMIN, "The tenant's.", shared=True)
    text(system, ADMIN, "Ann's and Bob's.", shared=True, access=Access(readers=["ann", "bob"]))
    text(system, principal("ann", "globex"), "Elsewhere.")

    def hidden(person="", readers=None):
        return sorted(system.views.hidden_texts("acme", person, readers))

    assert hidden("ann") == ["Bob's."]
    assert hidden() == ["Ann's and Bob's.", "Ann's.", "Bob's."]
    assert hidden(readers=["bob"]) == ["Ann's."]
    assert hidden(readers=["bob", "cid"]) == ["Ann's and Bob's.", "Ann's.", "Bob's."]


# -- the API -------------------------------------------------------------------------------------------


@pytest.fixture
def http(system):
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "ann"}
    return TestClient(create_app(system), headers=headers, raise_server_exceptions=False)


def test_jobs_over_http(http, system):
    cube = text(system, principal("ann"), name="notes")
    reply = http.post("/v1/memory/cubes/notes/distill")
    assert reply.status_code == 202
    job = reply.json()
    assert (job["state"], job["sources"], job["report"]) == ("queued", [cube], None)
    assert http.get(f"/v1/memory/jobs/{job['id']}").json() == job
    assert http.get("/v1/memory/jobs").json()["jobs"] == [job]
    assert http.post(f"/v1/memory/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    assert http.post(f"/v1/memory/jobs/{job['id']}/cancel").status_code == 409
    assert http.get("/v1/memory/jobs/job_x").status_code == 404
    assert http.post("/v1/memory/cubes/none/distill").status_code == 404
    refused = http.post("/v1/memory/cubes/notes/decode")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "memory_unprocessable")
    wrong = http.post("/v1/memory/cubes/notes/distill", json={"recipe": {"rank": 0}})
    assert wrong.status_code == 400
    assert "rank" in wrong.json()["error"]["message"]


def test_a_cascade_over_http_names_the_deleted_cubes(http, system):
    ann = principal("ann")
    source = text(system, ann)
    made = adapter(system, ann, [source])
    reply = http.delete(f"/v1/memory/cubes/{source}", params={"cascade": True})
    assert reply.json()["deleted_too"] == [made]
    other = text(system, ann)
    made = adapter(system, ann, [other])
    kept = http.delete(f"/v1/memory/cubes/{other}", params={"cascade": False})
    assert kept.json()["stale"] == [made]
    last = text(system, ann)
    made = adapter(system, ann, [last])
    assert http.delete(f"/v1/memory/cubes/{last}").json()["deleted_too"] == [made], "by default"


def test_a_rank_over_the_served_one_is_refused_or_lowered(system):
    """The server may have been started anew with a smaller rank since a job was queued."""
    ann = principal("ann")
    source, served = text(system, ann), mock.Mock(max_rank=2)
    stored = Distill.model_validate(Distill(recipe={"rank": 4}).model_dump(mode="json")).recipe
    assert submit.fitted(system, stored) is stored, "no engine runs here: any rank is trained"
    with mock.patch.object(type(system), "served", served):
        assert submit.fitted(system, stored).rank == 2
        assert submit.distill(system, ann, source, Distill()).request["recipe"]["rank"] == 2
        with pytest.raises(Unprocessable, match="--max-lora-rank 2"):
            submit.distill(system, ann, source, Distill(recipe={"rank": 4}))
        fits = Distill(recipe={"rank": 2})
        assert submit.distill(system, ann, source, fits).request["recipe"]["rank"] == 2
