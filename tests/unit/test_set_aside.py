"""Jobs that were set aside: an admin lists, retries and discards those of the own tenant, and of no other."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from memos_vllm.api.app import create_app
from memos_vllm.cli.main import app
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.governance.principal import Role
from memos_vllm.learning.extract import subject_of
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill
from memos_vllm.vault.forgotten import Forgotten
from memos_vllm.vault.jobs import MAX_ATTEMPTS, PURGE, READ, REMEMBER, RESTORE, SWEEP
from memos_vllm.vault.set_aside import SetAside
from memos_vllm.vault.transform_rows import JobState
from tests.conftest import FakeQueue, principal, set_aside

SECRET = "The ZEBRA is striped."
URL = "/v1/memory/jobs"


def http_of(system, tenant: str = "acme", role: Role = Role.ADMIN) -> TestClient:
    _, key = system.keys.create(tenant, role)
    return TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})


def failed_turn(system, person: str = "alice", tenant: str = "acme") -> str:
    """Id of the job of a turn that could not be made memory."""
    said = [{"role": "user", "content": SECRET}]
    body = turn_body(said, "Fine.", model="demo", request_id="r", at_us=now_us())
    turn = system.turns.add(principal(person, tenant), body)
    set_aside(system.jobs, REMEMBER, turn, "EmbedderUnavailable")
    return next(job.id for job in system.jobs.failed() if job.subject == turn)


def cube_of(system, person: str = "alice", tenant: str = "acme"):
    new = NewCube(meta=NewMeta(person=person), payload=ExplicitPayload(content=SECRET * 20))
    return system.create(principal(person, tenant), [new])[0]


def failed_transform(system, person: str = "alice", tenant: str = "acme") -> str:
    """Id of a training whose process died in each attempt."""
    owner = principal(person, tenant)
    job = submit.distill(system, owner, cube_of(system, person, tenant).meta.id, Distill())
    for _ in range(MAX_ATTEMPTS):
        assert system.transforms.claim(job.id) is not None
        system.transforms.retry(job.id, "OSError")
    assert system.transforms.get(owner, job.id).state is JobState.FAILED
    return job.id


def listed(http: TestClient) -> list[dict]:
    reply = http.get(URL, params={"state": "failed"})
    assert reply.status_code == 200, reply.text
    assert "ZEBRA" not in reply.text
    return reply.json()["failed"]


def test_an_admin_lists_turns_and_transforms_with_person_attempts_and_class_of_the_error(system):
    turn, training = failed_turn(system), failed_transform(system, "bob")
    found = listed(http_of(system))
    assert [
        (each["id"], each["kind"], each["person"], each["attempts"], each["error"])
        for each in found
    ] == [
        (training, "distill", "bob", MAX_ATTEMPTS, "OSError"),
        (turn, "remember", "alice", MAX_ATTEMPTS, "EmbedderUnavailable"),
    ]
    assert set(found[0]) == {"id", "kind", "person", "created", "attempts", "error"}
    assert (
        len(http_of(system).get(URL, params={"state": "failed", "limit": 1}).json()["failed"]) == 1
    )


def test_no_tenant_sees_retries_or_discards_a_job_of_another(system):
    jobs = [failed_turn(system), failed_transform(system)]
    foreign = http_of(system, "other")
    assert listed(foreign) == []
    for job in jobs:
        assert foreign.post(f"{URL}/{job}/retry").status_code == 404
        assert foreign.delete(f"{URL}/{job}").status_code == 404
    assert {each["id"] for each in listed(http_of(system))} == set(jobs)


def test_a_page_is_filled_with_own_jobs_behind_many_of_others(system, monkeypatch):
    monkeypatch.setattr("memos_vllm.vault.set_aside._PAGE", 2)
    mine = failed_turn(system)
    for number in range(5):
        failed_turn(system, f"person {number}", "other")
    assert [each["id"] for each in listed(http_of(system))] == [mine]


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER])
def test_only_an_admin_key_may(system, role):
    job, http = failed_turn(system), http_of(system, role=role)
    assert http.get(URL, params={"state": "failed"}).status_code == 403
    assert http.post(f"{URL}/{job}/retry").status_code == 403
    assert http.delete(f"{URL}/{job}").status_code == 403
    assert http.get(URL).json() == {"jobs": []}, "own jobs, as before"


def test_a_person_token_reaches_no_job(system):
    job, admin = failed_turn(system), http_of(system)
    made = admin.post(
        "/v1/memory/people/alice/tokens", json={"scopes": ["memory.read", "memory.delete"]}
    ).json()
    token = {"Authorization": f"Bearer {made['token']}"}
    assert admin.get(URL, params={"state": "failed"}, headers=token).status_code == 403
    assert admin.delete(f"{URL}/{job}", headers=token).status_code == 403


def test_a_retried_turn_becomes_memory(system):
    job, http = failed_turn(system), http_of(system)
    assert http.post(f"{URL}/{job}/retry").json()["kind"] == "remember"
    assert listed(http) == []
    assert http.post(f"{URL}/{job}/retry").status_code == 404, "it is queued already"
    (turn,) = system.turns.waiting()
    Rememberer(system, FakeQueue(system.jobs, system.config.jobs)).remember(turn)
    assert system.turns.waiting() == []
    cubes = http.get("/v1/memory/cubes", headers={"X-Memos-User": "alice"}).json()["cubes"]
    assert len(cubes) == 1


def test_a_retried_transform_is_claimed_with_all_attempts(system):
    job, http = failed_transform(system), http_of(system)
    assert http.post(f"{URL}/{job}/retry").status_code == 200
    assert listed(http) == []
    assert http.get(f"{URL}/{job}").json()["report"] is None
    assert system.transforms.claim().id == job
    system.transforms.retry(job, "OSError")
    assert system.transforms.get(principal("alice"), job).state is JobState.QUEUED


def test_a_discarded_turn_leaves_nothing(system):
    job, http = failed_turn(system), http_of(system)
    assert http.delete(f"{URL}/{job}").status_code == 200
    assert system.turns.waiting() == []
    assert system.jobs.counts() == {}
    assert http.delete(f"{URL}/{job}").status_code == 404


def test_a_discarded_transform_leaves_its_cube(system):
    job, http = failed_transform(system), http_of(system)
    assert http.delete(f"{URL}/{job}").status_code == 200
    assert http.get(f"{URL}/{job}").status_code == 404
    assert listed(http) == []
    assert len(http.get("/v1/memory/cubes").json()["cubes"]) == 1


def test_reading_and_restores_are_of_the_tenant_of_their_subject(system):
    cube = cube_of(system)
    system.jobs.add(READ, subject_of(cube.meta.id, "r"))
    set_aside(system.jobs, READ, subject_of(cube.meta.id, "r"))
    restore = system.restores.add(principal("admin", role=Role.ADMIN), "alice", now_us())
    set_aside(system.jobs, RESTORE, restore.id)
    http = http_of(system)
    found = {each["kind"]: each for each in listed(http)}
    assert {kind: each["person"] for kind, each in found.items()} == {
        "read": "alice",
        "restore": "alice",
    }
    for each in found.values():
        assert http.delete(f"{URL}/{each['id']}").status_code == 200
    assert system.restores.find(restore.id) is None
    assert listed(http) == []


def test_a_job_that_deletes_is_retried_and_not_discarded(system):
    cube, http = cube_of(system), http_of(system)
    gone = Forgotten("undo_1", cube.meta.id, cube.meta.version, cube.meta.state).subject
    system.jobs.add(PURGE, gone)
    set_aside(system.jobs, PURGE, gone)
    (purge,) = listed(http)
    assert (purge["kind"], purge["person"]) == ("purge", "alice")
    refused = http.delete(f"{URL}/{purge['id']}")
    assert (refused.status_code, "retry it" in refused.text) == (409, True)
    assert http.post(f"{URL}/{purge['id']}/retry").status_code == 200


def test_an_erasure_names_no_person(system):
    cube_of(system)
    erasure = Eraser(system).request(principal("admin", role=Role.ADMIN), "alice")
    set_aside(system.jobs, "erase", erasure.id)
    (found,) = listed(http_of(system))
    assert (found["kind"], found["person"]) == ("erase", None)


def test_jobs_of_no_tenant_are_the_operators(system):
    system.jobs.add(SWEEP, "all")
    system.jobs.add(REMEMBER, "turn_of_an_erased_person")
    for name, subject in ((SWEEP, "all"), (REMEMBER, "turn_of_an_erased_person")):
        set_aside(system.jobs, name, subject)
    assert listed(http_of(system)) == []
    assert [SetAside(system.database).tenant_of(job.id) for job in system.jobs.failed()] == [
        None
    ] * 2


def test_what_an_admin_does_is_audited_without_text(system):
    jobs = [failed_turn(system), failed_turn(system, "bob")]
    http = http_of(system)
    http.post(f"{URL}/{jobs[0]}/retry")
    http.delete(f"{URL}/{jobs[1]}")
    records = system.audit.read(principal("admin", role=Role.ADMIN), limit=100)
    made = [(each["action"], each["object"], each["owner"]) for each in records]
    assert ("job.retry", jobs[0], "alice") in made
    assert ("job.discard", jobs[1], "bob") in made
    assert "ZEBRA" not in json.dumps(records)


def test_the_command_line_discards_a_job_of_any_tenant(system, tmp_path):
    job = failed_turn(system)
    system.jobs.add(SWEEP, "all")
    set_aside(system.jobs, SWEEP, "all")
    sweep = next(each.id for each in system.jobs.failed() if each.name == SWEEP)
    file = tmp_path / "config.json"
    file.write_text(system.config.model_dump_json())

    def memos(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["jobs", *arguments, "--config", str(file)])
        return result.exit_code, result.output

    assert job in memos("failed", "--json")[1]
    assert memos("discard", sweep)[0] != 0
    code, output = memos("discard", job)
    assert (code, "discarded remember" in output) == (0, True), output
    assert [each.id for each in system.jobs.failed()] == [sweep]
