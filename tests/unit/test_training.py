"""The training process: its computation, and that it resumes after a stop at any time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from memos_vllm.cube.model import Item
from memos_vllm.errors import BadRequest
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.parametric.adapter.merge import merge
from memos_vllm.parametric.adapter.packed import load_folder
from memos_vllm.parametric.training import exam
from memos_vllm.parametric.training import weights as weights_module
from memos_vllm.parametric.training.child import Child
from memos_vllm.parametric.training.order import Context, JobFolder, Question, Recipe, write_json
from memos_vllm.parametric.training.process import teacher_inputs
from memos_vllm.parametric.training.student import Student, divergence
from memos_vllm.parametric.training.study import question_messages
from memos_vllm.parametric.training.targets import teach
from memos_vllm.parametric.training.weights import Weights
from memos_vllm.prompt.layout import place, quote_cube
from memos_vllm.writer.base import Ask
from tests.training import TEXT, lessons, order, tiny_model

WORDS = ("cat", "dog", "sky", "bread", "sea", "door", "wind", "song")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(weights_module, "compute_dtype", lambda device: torch.float32)


def ignore(*_):
    pass


def answered(weights, before=True):
    return [
        weights.answered(
            question_messages(each.before if before else None, each.question, weights.escape),
            each.answer,
        )
        for each in lessons().lessons
    ]


def test_generation_follows_its_json_schema(model):
    words = {"enum": ["yes", "no", "never"]}
    schema = {
        "type": "object",
        "properties": {"sure": words, "why": {"type": "string", "maxLength": 4}},
        "required": ["sure", "why"],
        "additionalProperties": False,
    }
    messages = [{"role": "user", "content": "Is it so?"}]
    free = [Ask(messages, 60, temperature=0.9, seed=seed) for seed in range(3)]
    bound = [dataclasses.replace(ask, schema=schema) for ask in free]
    *constrained, unbound = Weights(str(model)).write([*bound, free[0]], ignore)
    for text in constrained:
        answer = json.loads(text)
        assert answer["sure"] in words["enum"]
        assert len(answer["why"]) <= 4
    with pytest.raises(json.JSONDecodeError):
        json.loads(unbound)


# -- the computation -----------------------------------------------------------------------------------


def test_the_loss_is_the_divergence_over_the_listed_tokens_and_the_rest():
    torch.manual_seed(0)
    teacher = torch.randn(3, 11).log_softmax(-1)
    student = torch.randn(3, 11).log_softmax(-1)
    whole = teacher.topk(11)
    full = float((teacher.exp() * (teacher - student)).sum(-1).mean())
    assert float(divergence(student, whole.indices, whole.values)) == pytest.approx(full, abs=1e-4)
    part = teacher.topk(4)
    coarse = divergence(student, part.indices, part.values)
    assert 0 < coarse < full
    assert float(divergence(teacher, part.indices, part.values)) == pytest.approx(0, abs=1e-5)


def test_logits_do_not_depend_on_padding(model, exact):
    weights = Weights(str(model))
    batch = answered(weights)
    together = weights.logits(batch)
    alone = torch.cat([weights.logits([each]) for each in batch])
    assert together.shape[0] == sum(len(each.answer) for each in batch)
    assert torch.allclose(together, alone, atol=1e-4)
    weights._is_plain = False
    assert torch.allclose(weights.logits(batch), together, atol=1e-5)


def test_targets_are_those_of_each_lesson_and_are_read_from_the_file(model, exact, tmp_path):
    weights = Weights(str(model))
    batch = answered(weights)
    file = tmp_path / "targets.safetensors"
    for targets in (teach(weights, batch, 4, file, ignore), teach(None, batch, 4, file, ignore)):
        for number, each in enumerate(batch):
            tokens, logprobs = targets.of(number)
            likeliest = weights.logits([each]).float().log_softmax(-1).topk(4)
            assert torch.equal(tokens, likeliest.indices)
            assert torch.allclose(logprobs, likeliest.values, atol=1e-4)


def test_the_student_learns_the_teachers_distribution(model, exact, tmp_path):
    weights = Weights(str(model))
    targets = teach(weights, answered(weights), 32, tmp_path / "t.safetensors", ignore)
    recipe = Recipe(rank=4, batch=6, epochs=40, learning_rate=0.02)
    student = Student(weights, recipe, answered(weights, before=False))
    losses = []
    student.train(targets, tmp_path / "checkpoint", lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < losses[0] / 2
    with student.base():
        assert torch.allclose(
            weights.logits(answered(weights)), Weights(str(model)).logits(answered(weights))
        )


@pytest.mark.parametrize("method", ["distillation", "likelihood"])
def test_resumed_training_equals_uninterrupted_training(model, exact, tmp_path, method):
    recipe = Recipe(rank=2, batch=4, epochs=4, method=method)

    def trained(name, stop_at=None):
        weights = Weights(str(model))
        targets = teach(weights, answered(weights), 8, tmp_path / f"{name}.t", ignore)
        student = Student(weights, recipe, answered(weights, before=False))

        def done(step, steps, loss):
            if step == stop_at:
                raise InterruptedError

        student.train(targets, tmp_path / name, done)
        return student

    whole = trained("whole")
    with pytest.raises(InterruptedError):
        trained("part", stop_at=3)
    resumed = trained("part")
    assert resumed.step == whole.step == 8
    assert all(map(torch.equal, resumed._exact, whole._exact))


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path):
    from memos_vllm.errors import BadRequest

    with pytest.raises(BadRequest, match="cannot be loaded"):
        Weights(str(tmp_path / "nothing"))


def test_a_long_text_is_cut_to_the_passages_that_fit_a_served_prompt(model):
    weights = Weights(str(model))
    passages = [Item(text=f"Rule {n} is about the {word}.") for n, word in enumerate(WORDS)]
    question = Question(question="What is rule 2 about, the sea or the sky?", answer="sky")
    whole = order(model).model_copy(update={"passages": passages})
    assert exam._shown(weights, whole, question) == passages
    short = whole.model_copy(update={"shown_tokens": 24})
    shown = exam._shown(weights, short, question)
    assert passages[2] in shown
    assert len(shown) < len(passages)
    assert shown == [passage for passage in passages if passage in shown]


# -- the process ---------------------------------------------------------------------------------------


def job(path, model, **given):
    folder = JobFolder.make(path, order(model, **given))
    write_json(folder.lessons, lessons().model_dump(mode="json"))
    return folder


def run_to_end(folder, max_bytes=16 << 30, seconds=240.0):
    child = Child(folder, max_bytes)
    deadline = time.monotonic() + seconds
    while child.runs():
        assert time.monotonic() < deadline, folder.log.read_text()
        time.sleep(0.1)
    return child.report()


@pytest.mark.slow
def test_an_order_becomes_an_adapter_and_a_report(model, tmp_path):
    folder = job(tmp_path / "job", model, recipe={"epochs": 2})
    report = run_to_end(folder)
    assert report.outcome == "refused", folder.log.read_text()
    assert (report.lessons, report.steps) == (6, 6)
    assert report.recall.questions == 1
    assert "even with the text" in report.reasons[-1]
    assert report.prompt_tokens_saved > 20
    assert report.perplexity_ratio > 0
    assert folder.progress().phase == "ended"
    adapter = load_folder(folder.adapter)
    assert adapter.config.r == 2
    assert set(adapter.modules()) >= {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }


@pytest.mark.slow
def test_a_restarted_process_resumes_from_its_checkpoint(model, tmp_path):
    folder = job(tmp_path / "job", model, recipe={"epochs": 4000})
    child = Child(folder, 16 << 30)

    def steps() -> int:
        progress = folder.progress()
        return progress.done if progress.phase == "training" else 0

    while child.runs() and steps() < 3:
        time.sleep(0.05)
    child.stop("the server ends")
    assert child.report().outcome == "stopped"
    step = json.loads((folder.checkpoint / "step.json").read_bytes())
    assert step >= 3
    child = Child(folder, 16 << 30)
    while child.runs() and folder.progress().phase != "training":
        time.sleep(0.05)
    while child.runs() and folder.progress().done == 0:
        time.sleep(0.05)
    assert folder.progress().done > step
    child.stop("enough")


@pytest.mark.slow
def test_a_killed_process_is_started_again_twice_at_most(model, tmp_path):
    folder = job(tmp_path / "job", model, recipe={"epochs": 100_000})
    child = Child(folder, 16 << 30)
    killed = []
    while child.runs():
        if child.pid not in killed:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.05)
    assert len(killed) == 3
    report = child.report()
    assert report.outcome == "failed"
    assert "ended with -9" in report.reasons[0]


@pytest.mark.slow
def test_time_and_memory_are_limited(model, tmp_path):
    slow = job(tmp_path / "slow", model, recipe={"epochs": 100_000}, max_seconds=1.0)
    report = run_to_end(slow)
    assert (report.outcome, report.reasons) == ("stopped", ["it reached its time limit (1 s)"])
    large = job(tmp_path / "large", model, recipe={"epochs": 100_000})
    report = run_to_end(large, max_bytes=50 << 20)
    assert report.outcome == "stopped"
    assert "bytes of memory" in report.reasons[0]


@pytest.mark.slow
def test_the_process_ends_with_its_parent(model, tmp_path):
    folder = job(tmp_path / "job", model, recipe={"epochs": 100_000})
    starter = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from memos_vllm.parametric.training.child import Child\n"
        "from memos_vllm.parametric.training.order import JobFolder\n"
        "Child(JobFolder(Path(sys.argv[1])), 16 << 30)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter, str(folder.path)])
    try:
        deadline = time.monotonic() + 120
        while folder.progress().done == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while folder.report() is None:
        assert time.monotonic() < deadline, "the process outlives its parent"
        time.sleep(0.1)
    assert folder.report().reasons == ["the process that started it has ended"]


@pytest.mark.slow
def test_a_process_that_cannot_start_reports_the_reason(tmp_path):
    folder = JobFolder.make(tmp_path / "job", order(tmp_path / "no-model"))
    report = run_to_end(folder)
    assert report.outcome == "failed"
    assert "base model cannot be loaded" in report.reasons[0]
    empty = JobFolder(tmp_path / "empty")
    empty.path.mkdir()
    report = run_to_end(empty)
    assert report.outcome == "failed"
    assert "no valid order" in report.reasons[0]


# -- stored KV in place of the text --------------------------------------------------------------------


def stored_context(weights):
    """KV of a prompt prefix that ends inside the chat, after the memory's text."""
    texts = [quote_cube("Orion", TEXT, weights.escape)]
    asked = [{"role": "user", "content": "?"}]
    whole = weights.prompt(place(asked, texts, []))
    text = weights.tokenizer.decode(whole)
    tokens = weights.tokenizer.encode(text[: text.index("</memory>")], add_special_tokens=False)
    assert whole[: len(tokens)] == tokens
    with torch.inference_mode():
        cache = weights.model(torch.tensor([tokens])).past_key_values
    layers = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
    kv = torch.stack(layers).transpose(2, 3).contiguous()  # (layers, 2, tokens, heads, dim)
    return Context(tokens=tokens, texts=texts), kv


def test_a_teacher_with_kv_has_the_distribution_of_a_teacher_with_text(model, exact, tmp_path):
    weights = Weights(str(model))
    context, kv = stored_context(weights)
    folder = JobFolder.make(tmp_path / "job", order(model, context=context))
    save_file({"kv": kv}, folder.context)
    shown, before = teacher_inputs(folder, folder.order(), weights, lessons().lessons)
    with_kv = teach(weights, shown, 8, tmp_path / "kv", ignore, before)
    with_text = [
        weights.answered(
            place([{"role": "user", "content": each.question}], context.texts, [])
            if each.before
            else question_messages(None, each.question, weights.escape),
            each.answer,
        )
        for each in lessons().lessons
    ]
    wanted = teach(weights, with_text, 8, tmp_path / "text", ignore)
    plain = teach(weights, answered(weights, before=False), 8, tmp_path / "plain", ignore)
    for number, lesson in enumerate(lessons().lessons):
        assert torch.equal(with_kv.of(number)[0], wanted.of(number)[0])
        torch.testing.assert_close(with_kv.of(number)[1], wanted.of(number)[1], atol=1e-4, rtol=0)
        is_plain = torch.allclose(with_kv.of(number)[1], plain.of(number)[1], atol=1e-4)
        assert is_plain == (lesson.before is None)


def test_kv_of_other_tokens_or_of_another_model_is_refused(model, exact, tmp_path):
    weights = Weights(str(model))
    context, kv = stored_context(weights)
    other = context.model_copy(update={"tokens": [*context.tokens[:-1], 5]})
    for wrong, tensor in ((other, kv), (context, kv[:1]), (context, kv[:, :, :-1])):
        folder = JobFolder.make(tmp_path / "job", order(model, context=wrong))
        save_file({"kv": tensor.contiguous()}, folder.context)
        with pytest.raises(BadRequest, match="KV"):
            teacher_inputs(folder, folder.order(), weights, lessons().lessons)


@pytest.mark.slow
def test_a_job_with_a_kv_teacher_trains_an_adapter(model, exact, tmp_path):
    weights = Weights(str(model))
    context, kv = stored_context(weights)
    folder = JobFolder.make(tmp_path / "job", order(model, context=context, recipe={"epochs": 1}))
    save_file({"kv": kv}, folder.context)
    write_json(folder.lessons, lessons().model_dump(mode="json"))
    child = Child(folder, 16 << 30)
    while child.runs():
        time.sleep(0.1)
    report = child.report()
    assert report.outcome in ("passed", "refused"), report.reasons
    assert load_folder(folder.adapter).config.r == 2


# -- warm start ----------------------------------------------------------------------------------------


def test_a_warm_started_student_equals_its_initial_adapter(model, exact, tmp_path):
    weights = Weights(str(model))
    first = Student(weights, Recipe(rank=2, batch=2, epochs=2), answered(weights, before=False))
    targets = teach(weights, answered(weights), 8, tmp_path / "targets", ignore)
    first.train(targets, tmp_path / "checkpoint", ignore)
    first.save(folder := tmp_path / "first")
    AdapterFolders(tmp_path).make("start", merge([load_folder(folder)] * 2, "cat", 4))

    def logits(student):
        with torch.inference_mode():
            return student._weights.logits(answered(weights, before=False)[:2], student.model)

    fresh = Weights(str(model))
    plain = answered(fresh, before=False)
    student = Student(fresh, Recipe(rank=2, batch=2), plain, tmp_path / "start")
    peft = PeftModel.from_pretrained(Weights(str(model)).model, str(tmp_path / "start"))
    with torch.inference_mode():
        wanted = fresh.logits(answered(fresh, before=False)[:2], peft)
    torch.testing.assert_close(logits(student), wanted, atol=1e-4, rtol=1e-4)
    student.save(tmp_path / "again")
    assert load_folder(tmp_path / "again").config.r == 4
