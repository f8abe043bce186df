"""`memos train`, `memos jobs`, `memos plan`, and storing the trained adapter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.config.load import load_config
from memos_vllm.cube.model import CubePatch, Item, State
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.errors import ConfigError, NotFound
from memos_vllm.governance.principal import Role
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.parametric.training.order import JobFolder, Order, Report
from memos_vllm.system import MemorySystem
from memos_vllm.transforms import submit
from memos_vllm.transforms.auto import promotable, promote
from memos_vllm.transforms.requests import Distill
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.sources import read_sources
from memos_vllm.transforms.worker import base_model
from memos_vllm.vault.transform_records import JobIsGone
from memos_vllm.vault.transform_rows import JobState
from tests.adapters import read_upload, small
from tests.conftest import make_config, principal
from tests.training import tiny_model
from tests.unit.test_transforms import text

QUICK = ("--set", "epochs=1", "--set", "questions=1", "--set", "rank=2", "--set", "answer_tokens=4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "memos.yaml"
    tree = {
        "home": str(tmp_path / "home"),
        "embedder": {"model": str(demo_embedder_path()), "processes": 0},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def memos(settings):
    def run(*arguments, code=0):
        result = CliRunner().invoke(app, [*arguments, "--config", str(settings)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    run("cubes", "create", "--name", "notes", "--text", "The code of Orion is KESTREL-17.")
    return run


# -- the command line ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_adapter_that_fails_its_gate_is_stored_as_generated(memos, model, tmp_path):
    exam = tmp_path / "exam.json"
    exam.write_text(json.dumps([{"question": "What is the code?", "answer": "KESTREL-17"}]))
    arguments = ("train", "notes", "--name", "lora", "--model", model, "--exam", str(exam), *QUICK)
    job = json.loads(memos(*arguments, "--json", code=1).stdout)
    assert job["state"] == "refused"
    assert job["report"]["recall"]["questions"] == 1
    cube = json.loads(memos("cubes", "show", "lora", "--json").stdout)
    assert cube["meta"]["id"] == job["made"]
    assert cube["meta"]["state"] == "generated"
    assert cube["meta"]["provenance"]["parents"] == job["sources"]
    assert "refused" in cube["meta"]["provenance"]["note"]
    listed = json.loads(memos("jobs", "list", "--json").stdout)
    assert [each["id"] for each in listed] == [job["id"]]
    assert job["id"] in memos("jobs", "show", job["id"]).stdout
    deleted = memos("cubes", "delete", "notes", "--yes", "--cascade")
    assert job["made"] in deleted.stderr


@pytest.mark.slow
def test_a_job_stopped_by_ctrl_c_is_queued_again(memos, model, settings):
    command = [sys.executable, "-m", "memos_vllm.cli.main", "train", "notes", "--model", model]
    command += [*QUICK, "--set", "epochs=100000", "--config", str(settings)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120

    def state():
        return json.loads(memos("jobs", "list", "--json").stdout)

    while not (state() and state()[0]["progress"].get("phase") == "training"):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    (job,) = state()
    assert job["state"] == "queued"
    assert f"memos jobs run {job['id']}" in stderr
    memos("jobs", "cancel", job["id"])
    assert "queued" in memos("jobs", "run", job["id"], "--model", model, code=1).stderr


@pytest.mark.slow
def test_a_detached_job_runs_with_jobs_run(memos, model):
    job = json.loads(memos("train", "notes", *QUICK, "--detach", "--json").stdout)
    assert job["state"] == "queued"
    ended = json.loads(memos("jobs", "run", "--model", model, "--json", code=1).stdout)
    assert (ended["id"], ended["state"]) == (job["id"], "refused")


def test_a_compact_is_queued_for_a_server(memos):
    job = json.loads(memos("compact", "notes", "--places", "8", "--detach", "--json").stdout)
    assert (job["kind"], job["state"]) == ("compact", "queued")
    (listed,) = json.loads(memos("jobs", "list", "--json").stdout)
    assert listed["id"] == job["id"]
    memos("jobs", "cancel", job["id"])
    assert "no cube" in memos("compact", "nothing", code=1).stderr
    waiting = json.loads(memos("compact", "notes", "--detach", "--json").stdout)["id"]
    assert "needs an engine" in memos("jobs", "run", waiting, "--model", "m", code=1).stderr
    assert json.loads(memos("jobs", "show", waiting).stdout)["state"] == "queued"


def test_a_compact_is_followed_to_its_end(memos, settings):
    command = [sys.executable, "-m", "memos_vllm.cli.main", "compact", "notes"]
    process = subprocess.Popen(
        [*command, "--config", str(settings)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (jobs := json.loads(memos("jobs", "list", "--json").stdout)):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cancelled {jobs[0]['id']}" in stderr
    assert json.loads(memos("jobs", "list", "--json").stdout)[0]["state"] == "cancelled"


def test_usage_errors_are_one_line(memos, tmp_path):
    assert "rank, alpha" in memos("train", "notes", "--set", "ranks=3", code=1).stderr
    assert "NAME=VALUE" in memos("train", "notes", "--set", "rank", code=1).stderr
    (tmp_path / "bad.json").write_text("{}")
    stderr = memos("train", "notes", "--exam", str(tmp_path / "bad.json"), code=1).stderr
    assert "is not a list of questions" in stderr
    assert "no base model" in memos("train", "notes", code=1).stderr
    assert "no cube" in memos("train", "nothing", code=1).stderr
    with pytest.raises(ConfigError):
        base_model(load_config(overrides={"home": str(tmp_path)}))


# -- storing the adapter -------------------------------------------------------------------------------


def trained(system, who, cube, request, meanwhile=lambda: None, **reported):
    """A job whose training process has ended with this report."""
    job = submit.distill(system, who, cube, request)
    system.transforms.claim(job.id)
    sources = read_sources(system.vault, who, [cube])
    versions = {source.meta.id: source.meta.version for source in sources.cubes}
    order = Order(model="base", sources=versions)
    folder = JobFolder.make(system.config.training_path / job.id, order)
    adapter = read_upload(small(), 1 << 30)
    AdapterFolders(folder.path).make(folder.adapter.name, adapter)
    meanwhile()
    report = Report(**({"outcome": "passed"} | reported))
    JobRunner(system, ("base", None))._store_adapter(job, request, sources, folder, report)
    return system.transforms.get(who, job.id)


def test_deleting_the_source_during_training_discards_the_adapter(system):
    ann = principal("ann")
    cube = text(system, ann)
    with pytest.raises(JobIsGone):
        trained(system, ann, cube, Distill(name="lora"), lambda: system.delete(ann, cube))
    with pytest.raises(NotFound):
        system.vault.get(ann, "lora")


def test_changing_the_source_during_training_marks_the_adapter_stale(system):
    ann = principal("ann")
    cube = text(system, ann)
    more = CubePatch(append=[Item(text="More.")])
    trained(system, ann, cube, Distill(name="lora"), lambda: system.update(ann, cube, more))
    made = system.vault.get(ann, "lora").meta
    assert made.stale == [cube]
    first = system.vault.history(ann, cube)[-1].id
    assert made.provenance.parent_versions == [first]
    tagged = CubePatch(tags=["seen"])
    trained(system, ann, cube, Distill(name="b"), lambda: system.update(ann, cube, tagged))
    assert system.vault.get(ann, "b").meta.stale == [], "the text is unchanged"


def test_a_name_taken_during_training_stores_the_adapter_without_a_name(system):
    ann = principal("ann")
    cube = text(system, ann)
    job = trained(system, ann, cube, Distill(name="x"), lambda: text(system, ann, name="x"))
    assert job.state is JobState.DONE
    assert system.vault.get(ann, job.made).meta.name is None
    assert "'x'" in job.report["reasons"][0]


def test_an_adapter_that_leaks_another_persons_text_is_not_stored(system):
    ann, bob = principal("ann"), principal("bob")
    secret = "The code of the safe behind the painting is four seven one one."
    text(system, bob, secret)
    cube = text(system, ann, "The sky is green.")
    good = trained(system, ann, cube, Distill(name="good"), said=["The sky is green."])
    assert (good.state, good.report["reasons"]) == (JobState.DONE, [])
    assert system.views.adapter(ann, "good") is not None
    leaking = trained(system, ann, cube, Distill(name="leaking"), said=[secret])
    assert leaking.state is JobState.REFUSED
    assert "leak" in leaking.report["reasons"][0]
    assert secret not in json.dumps(leaking.report)
    assert leaking.made is None
    with pytest.raises(NotFound):
        system.vault.get(ann, "leaking")


def test_into_adds_a_version_only_when_the_gate_passes(system):
    ann = principal("ann")
    cube = text(system, ann)
    made = trained(system, ann, cube, Distill(name="lora")).made
    again = trained(system, ann, cube, Distill(into="lora"))
    assert again.made == made
    assert len(system.vault.history(ann, "lora")) == 2
    refused = trained(system, ann, cube, Distill(into="lora"), outcome="refused")
    assert system.vault.get(ann, refused.made).meta.state is State.GENERATED
    assert system.views.adapter(ann, refused.made) is None
    assert refused.made != made
    assert len(system.vault.history(ann, "lora")) == 2


# -- promotion by rule ---------------------------------------------------------------------------------


@pytest.fixture
def ruled(tmp_path):
    rule = {"promote_after_days": 0.0, "promote_reads": 3, "promote_characters": 20}
    system = MemorySystem(make_config(tmp_path / "ruled", training=rule)).open()
    yield system
    system.close()


def test_only_large_stable_read_cubes_are_promoted_once(ruled):
    ann = principal("ann")
    hot = text(ruled, ann, "A long text about nothing in particular.")
    short = text(ruled, ann, "Short.")
    text(ruled, ann, "A long text that nobody has ever read.")  # prose: a sentence of a memory
    ruled.views.count_reads([hot, short] * 3)
    assert [cube.id for cube in promotable(ruled)] == [hot]
    assert promotable(ruled, "globex") == []
    (job,) = promote(ruled)
    assert job.sources == (hot,)
    assert job.principal.role is Role.ADMIN
    assert promote(ruled) == []


def test_a_compact_is_made_once_for_each_text(tmp_path):
    rule = {"promote_after_days": 0.0, "promote_reads": 1, "promote_characters": 1}
    rule["promote_to"] = ["adapter", "compact"]
    system = MemorySystem(make_config(tmp_path / "ruled", training=rule)).open()
    cube = text(system, principal("ann"))
    system.views.count_reads([cube])
    assert sorted(job.kind for job in promote(system)) == ["compact", "distill"]
    assert promote(system) == []
    system.update(principal("ann"), cube, CubePatch(append=[Item(text="More.")]))
    assert [job.kind for job in promote(system)] == ["compact"]
    assert promotable(system) == []
    system.close()


def test_a_recently_changed_cube_is_not_promoted(tmp_path):
    rule = {"promote_after_days": 1.0, "promote_reads": 1, "promote_characters": 1}
    system = MemorySystem(make_config(tmp_path / "ruled", training=rule)).open()
    cube = text(system, principal("ann"))
    system.views.count_reads([cube])
    system.update(principal("ann"), cube, CubePatch(append=[Item(text="More.")]))
    assert promotable(system) == []
    system.close()


def test_a_dry_run_shows_and_changes_nothing(memos, settings):
    os.environ["MEMOS__TRAINING__PROMOTE_AFTER_DAYS"] = "0"
    try:
        system = MemorySystem(load_config(settings)).open()
        cube = system.vault.get(principal("", "local", Role.ADMIN), "notes").meta.id
        system.views.count_reads([cube] * 100)
        system.close()
        assert json.loads(memos("plan", "promote", "--dry-run", "--json").stdout) == []
        os.environ["MEMOS__TRAINING__PROMOTE_CHARACTERS"] = "10"
        (shown,) = json.loads(memos("plan", "promote", "--dry-run", "--json").stdout)
        assert (shown["cube"], shown["job"]) == (cube, None)
        assert json.loads(memos("jobs", "list", "--json").stdout) == []
        (shown,) = json.loads(memos("plan", "promote", "--json").stdout)
        assert shown["job"] == json.loads(memos("jobs", "list", "--json").stdout)[0]["id"]
    finally:
        os.environ.pop("MEMOS__TRAINING__PROMOTE_AFTER_DAYS")
        os.environ.pop("MEMOS__TRAINING__PROMOTE_CHARACTERS", None)
