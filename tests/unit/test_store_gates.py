"""MemStore: no prompt uses an adapter of a bundle before it has passed the gate on this server."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from sqlalchemy import select

from memos_vllm.cli.store import _say
from memos_vllm.cube.model import NewCube, NewMeta, ParametricPayload, Provenance, State
from memos_vllm.errors import BadRequest
from memos_vllm.memstore.publish import About, publish
from memos_vllm.parametric.training import process
from memos_vllm.parametric.training.order import Question
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.vault.bundle_tables import BundleCubeRow
from memos_vllm.vault.transform_rows import EXAMINE, JobState
from tests.adapters import TARGETS, config_of, content_of, tensors_of
from tests.bundles import ADMIN, NAME, PUBLISHER, Bundler
from tests.training import tiny_model
from tests.unit.test_store_registry import run

CUBE = f"{NAME}:style"
EXAM = [Question(question="When does the shop open?", answer="nine")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def adapter(model, size, seed=0):
    """An adapter of the tiny model; the larger it is, the more it changes what the model says."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model))
    shapes = {
        name: tuple(layer.weight.shape)
        for name, layer in base.named_modules()
        if name.endswith(TARGETS)
    }
    return content_of(tensors_of(shapes, size=size, seed=seed), config_of())


@pytest.fixture(scope="module")
def harmless(model):
    return adapter(model, 0.001)


@pytest.fixture(scope="module")
def harmful(model):
    return adapter(model, 0.4)


class HereChild:
    """The work of the exam's process in this one, which has imported torch already."""

    def __init__(self, folder, *_more):
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        threads = torch.get_num_threads()
        try:
            self._report = process.run(folder)
        finally:
            torch.set_num_threads(threads)
            for number, handler in before.items():
                signal.signal(number, handler)

    def runs(self):
        return False

    def stop(self, _reason):
        pass

    def report(self):
        return self._report


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr("memos_vllm.transforms.runner.Child", HereChild)


def state(system):
    return system.vault.get(ADMIN, CUBE).meta.state


def gate(system):
    return system.bundles.get("acme", NAME).gates["style"]


def waiting(system):
    jobs = system.transforms.page(ADMIN)
    return [job for job in jobs if job.kind == EXAMINE and job.state is JobState.QUEUED]


def examine(system, model, *, most=1):
    """Sit the exams that wait, in the process that does; returns their reports."""
    runner = JobRunner(system, (str(model), None))
    reports = [runner.do(runner.claim(job.id)) for job in waiting(system)]
    assert 0 < len(reports) <= most
    return reports


def test_an_adapter_is_used_once_it_has_passed(bundler, system, model, harmless):
    bundler.publish(contents={"style": harmless, "hours": ["The shop opens at nine."]})
    bundler.install()
    bundler.approve()
    assert state(system) is State.GENERATED
    assert gate(system) == {}
    assert system.vault.get(ADMIN, f"{NAME}:hours").meta.state is State.ACTIVATED, "text is used"
    (report,) = examine(system, model)
    assert (report.outcome, report.recall) == ("passed", None)
    assert state(system) is State.ACTIVATED
    assert gate(system)["perplexity_ratio"] == report.perplexity_ratio < 1.02
    assert not waiting(system)


def test_an_adapter_that_passed_in_quarantine_is_used_from_the_approval_on(
    bundler, system, model, here, harmless
):
    bundler.publish(contents={"style": harmless})
    bundler.install()
    examine(system, model)
    assert state(system) is State.GENERATED, "quarantined"
    bundler.approve()
    assert state(system) is State.ACTIVATED


def test_an_adapter_that_makes_the_model_forget_stays_out_unless_it_is_trusted(
    bundler, system, model, here, harmful
):
    bundler.publish(contents={"style": harmful})
    bundler.install()
    bundler.approve()
    (report,) = examine(system, model)
    assert report.outcome == gate(system)["outcome"] == "refused"
    assert "forgetting" in gate(system)["reasons"][0]
    assert state(system) is State.GENERATED
    bundler.approve()
    assert not waiting(system), "a verdict stands"
    assert state(system) is State.GENERATED
    bundler.approve(trust_adapters=True)
    assert state(system) is State.ACTIVATED
    assert gate(system)["outcome"] == "trusted"
    assert "store.gate" in {each["action"] for each in system.audit.read(ADMIN)}


def test_a_new_adapter_is_out_of_use_until_it_has_passed_and_the_old_one_needs_no_second_exam(
    bundler, system, model, here, harmless, harmful
):
    bundler.publish(contents={"style": harmless})
    bundler.install()
    bundler.approve()
    examine(system, model)
    bundler.publish("1.1.0", {"style": harmful})
    bundler.update()
    assert state(system) is State.ARCHIVED
    examine(system, model)
    assert state(system) is State.ARCHIVED, "it is refused"
    bundler.store.rollback(ADMIN, bundler.registry, NAME)
    assert state(system) is State.ACTIVATED
    assert not waiting(system)


def test_back_to_an_adapter_before_its_exam_it_is_examined(
    bundler, system, model, here, harmless, harmful
):
    bundler.publish(contents={"style": harmless})
    bundler.install()
    bundler.approve()
    runner = JobRunner(system, (str(model), None))
    bundler.publish("1.1.0", {"style": harmful})
    bundler.update()
    outcomes = [runner.do(runner.claim(job.id)).outcome for job in waiting(system)]
    assert sorted(outcomes) == ["failed", "refused"], "the first is gone before its exam"
    bundler.store.rollback(ADMIN, bundler.registry, NAME)
    assert state(system) is not State.ACTIVATED
    examine(system, model)
    assert state(system) is State.ACTIVATED


def test_an_adapter_in_use_without_a_verdict_is_set_aside_by_the_next_approval(
    bundler, system, model, here, harmless
):
    bundler.publish(contents={"style": harmless})
    bundler.install()
    bundler.approve(trust_adapters=True)
    assert state(system) is State.ACTIVATED
    with system.database.write() as session:
        session.scalars(select(BundleCubeRow)).one().gates = {}
    bundler.approve()
    assert state(system) is State.ARCHIVED
    examine(system, model)
    assert state(system) is State.ACTIVATED


def test_the_exam_of_an_adapter_that_was_replaced_meanwhile_says_nothing(
    bundler, system, model, here, harmless, harmful
):
    bundler.publish(contents={"style": harmful})
    bundler.install()
    bundler.approve()
    runner = JobRunner(system, (str(model), None))
    late = runner.claim(waiting(system)[0].id)
    bundler.publish("1.1.0", {"style": harmless})
    bundler.update()
    assert runner.do(late).outcome == "failed"
    assert gate(system) == {}
    examine(system, model)
    assert state(system) is State.ACTIVATED


def test_an_exam_that_failed_or_was_cancelled_is_sat_again_after_an_approval(
    bundler, system, model, here, harmless
):
    bundler.publish(contents={"style": harmless})
    bundler.install()
    (report,) = examine(system, "/nowhere")
    assert report.outcome == gate(system)["outcome"] == "failed"
    assert not waiting(system)
    bundler.approve()
    system.transforms.cancel(ADMIN, waiting(system)[0].id)
    bundler.approve()
    bundler.approve()
    examine(system, model, most=1)
    assert state(system) is State.ACTIVATED


def test_questions_of_the_publisher_are_asked_with_the_bundles_text_and_without(
    bundler, system, model, here, harmless
):
    """The tiny model speaks at random: it answers nothing, with the text neither."""
    contents = {"style": harmless, "hours": ["The shop opens at nine."]}
    bundler.publish(contents=contents, exams={"style": EXAM})
    assert bundler.install().bundle.config["cubes"][0]["exam"] == [
        each.model_dump() for each in EXAM
    ]
    (report,) = examine(system, model)
    assert report.recall.questions == 1
    assert report.recall.ceiling is not None
    assert report.outcome == "refused"
    assert "recall" in report.reasons[0]


def test_without_text_in_the_bundle_the_adapter_has_to_beat_the_base_model(
    bundler, system, model, here, harmless
):
    bundler.publish(contents={"style": harmless}, exams={"style": EXAM})
    bundler.install()
    (report,) = examine(system, model)
    assert report.recall.ceiling is None
    assert "no better than the base model" in report.reasons[0]


def test_an_exam_is_of_an_adapter_and_has_an_end(bundler, harmless):
    with pytest.raises(BadRequest, match="no adapter of this bundle"):
        bundler.publish(contents={"hours": ["At nine."]}, exams={"hours": EXAM})
    with pytest.raises(BadRequest, match="at most 64"):
        bundler.publish(contents={"style": harmless}, exams={"style": EXAM * 65})


def test_questions_of_the_training_go_with_the_adapter(bundler, system, harmless):
    bundler.cubes({"hours": ["The shop opens at nine."]})
    job = submit.distill(system, PUBLISHER, "hours", Distill(name="style", exam=EXAM))
    made = Provenance(origin="transform:distill", message_ids=[job.id])
    meta = NewMeta(name="style", shared=True, provenance=made)
    system.create(PUBLISHER, [NewCube(meta=meta, payload=ParametricPayload(content=harmless))])
    said = About(NAME, "1.0.0", "MIT")
    publish(system, PUBLISHER, bundler.registry, bundler.key, said, ["style"])
    (cube,) = bundler.install().bundle.config["cubes"]
    assert [each["answer"] for each in cube["exam"]] == ["nine"]


def test_the_command_line_says_what_waits(bundler, harmless, capsys):
    bundler.publish(contents={"style": harmless})
    _say(bundler.install())
    assert "adapter style: waits for its exam" in capsys.readouterr().err


def test_the_command_line_examines_trusts_and_binds_to_a_server(
    config, system, model, harmless, tmp_path
):
    file, asked = tmp_path / "memos.yaml", tmp_path / "exam.json"
    store = {"registries": {"team": str(tmp_path / "bundles")}}
    embedder = {"model": config.embedder.model, "processes": 0}
    tree = {"home": str(config.home), "embedder": embedder, "chroma": {"process": False}}
    file.write_text(json.dumps(tree | {"store": store}))
    asked.write_text(json.dumps([each.model_dump() for each in EXAM]))
    Bundler(system, tmp_path).cubes({"style": harmless})
    system.close()
    key, own = tmp_path / "publisher.key", ("--config", file)
    fingerprint = run("store", "keys", "new", key).split("fingerprint ")[1].strip()
    publish = ("store", "publish", NAME, "1.0.0", "--key", key, "--licence", "MIT", "--cube")
    publish = (*publish, "style", "--price", "1 EUR", "--tenant", "publisher", *own)
    run(*publish, "--exam", "style", code=1)
    run(*publish, "--exam", f"style={asked}")
    waits = run("store", "install", NAME, "--publisher", fingerprint, *own)
    assert "adapter style: waits for its exam" in waits
    server = run("store", "id", *own).strip()
    for_server = ("store", "entitle", NAME, "--key", key, "--to", "local", "--server")
    (tmp_path / "elsewhere").write_text(run(*for_server, "0" * 32))
    (tmp_path / "here").write_text(run(*for_server, server))
    approve = ("store", "approve", NAME, *own)
    run(*approve, "--entitlement", tmp_path / "elsewhere", code=1)
    assert "waits for its exam" in run(*approve, "--entitlement", tmp_path / "here")
    run("jobs", "run", "--model", model, *own, code=1)  # refused: it answers nothing
    refused = run("store", "list", *own)
    assert "style: refused" in refused
    assert "adapter style: refused: recall" in run(*approve)
    assert "adapter style: trusted" in run(*approve, "--trust-adapters")
