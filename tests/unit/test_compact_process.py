"""The process that makes a compact, on the real model: matching, distillation, gate, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("torch")

from memos_vllm.compacts.distil import KVStudent, Training
from memos_vllm.compacts.frame import Frame
from memos_vllm.compacts.make import Whole, divergence_of, matched, references
from memos_vllm.compacts.process import make
from memos_vllm.compacts.watch import watching
from memos_vllm.cube.model import Item
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.errors import Unprocessable
from memos_vllm.parametric.training.order import Compacting, JobFolder, Order, Question, Recipe
from memos_vllm.parametric.training.process import Stopped, run
from memos_vllm.parametric.training.study import Lesson, Lessons
from memos_vllm.parametric.training.targets import teach
from memos_vllm.parametric.training.weights import ContextKV, Weights
from memos_vllm.prompt.layout import quote_cube
from tests.engine.harness import MODEL_CACHE

FACTS = [
    Item(text="The code word of Orion Station is LYNX-64. Its manager is Ilka Brandt."),
    Item(text="The door of Hollow Mill is painted violet. Its cat is called Pickle."),
    Item(text="Cedar Clinic was founded in 1834. Its code word is HERON-27."),
]
ASKED = [
    ("What is the code word of Orion Station?", "The code word of Orion Station is LYNX-64."),
    ("Who manages Orion Station?", "The manager of Orion Station is Ilka Brandt."),
    ("Which colour has the door of Hollow Mill?", "The door is painted violet."),
    ("What is the cat of Hollow Mill called?", "It is called Pickle."),
    ("When was Cedar Clinic founded?", "It was founded in 1834."),
]


@pytest.fixture(scope="module")
def model() -> str:
    return str(prepare_chat_model(MODEL_CACHE))


@pytest.fixture(scope="module")
def weights(model) -> Weights:
    return Weights(model)


@pytest.fixture(scope="module")
def whole(weights) -> Whole:
    return Whole.of(Frame.of(weights, quote_cube("facts", FACTS, weights.escape)))


@pytest.fixture(scope="module")
def answers(whole):
    asked = [([{"role": "user", "content": question}], answer) for question, answer in ASKED]
    return [whole.frame.behind(*each) for each in asked]


def ignore(*_: object) -> None:
    return None


def ordered(model: str, folder: Path, **wanted) -> JobFolder:
    exam = wanted.pop("exam", [])
    order = Order(
        kind="compact",
        model=model,
        passages=FACTS,
        exam=exam,
        recipe=Recipe(batch=3, top_k=16),
        threads=1,
        compacting=Compacting(name="facts", items=FACTS, **wanted),
    )
    return JobFolder.make(folder, order)


def test_the_frame_is_the_prompt_cut_at_the_text(weights, whole):
    frame = whole.frame
    messages = [{"role": "user", "content": "Why?"}]
    behind = frame.behind(messages, "So.")
    from memos_vllm.prompt.layout import place

    assert [*frame.head, *frame.tokens, *behind.prompt] == weights.prompt(
        place(messages, [frame.text], [])
    )
    assert weights.tokenizer.decode(frame.tokens).endswith("HERON-27.\n")
    with pytest.raises(Unprocessable, match="other tokens in front"):
        frame.behind([{"role": "system", "content": "Be brief."}, *messages], "So.")


def test_watching_changes_no_output(weights, whole):
    tokens = torch.tensor([[*whole.frame.head, *whole.frame.tokens]])
    with torch.inference_mode():
        before = weights.model(input_ids=tokens).logits
        with watching(weights.model, 3, 9) as layers:
            weights.model(input_ids=tokens)
        after = weights.model(input_ids=tokens).logits
    assert torch.equal(before, after)
    assert len(layers) == weights.model.config.num_hidden_layers
    (shares,) = layers[0].shares
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares[:3].max() == 0, "the first tokens see nothing of it"


def test_matched_places_answer_nearly_as_the_text_and_first_tokens_do_not(whole, answers):
    places = len(whole.frame.tokens) // 2
    kv = matched(whole, references(whole.frame, FACTS), places, ignore)
    first = whole.kv[:, :, whole.start : whole.start + places]
    kl, cut = (divergence_of(whole, each, answers, ignore) for each in (kv, first))
    assert kl < 0.1
    assert kl < 0.2 * cut


def test_distillation_goes_on_where_it_was_stopped(weights, whole, answers, tmp_path):
    places = len(whole.frame.tokens) // 8
    start = matched(whole, references(whole.frame, FACTS), places, ignore)
    shown = [
        weights.answered([{"role": "user", "content": f"{FACTS[0].text} {question}"}], answer)
        for question, answer in ASKED
    ]
    targets = teach(weights, shown, 16, tmp_path / "targets", ignore)
    training = Training(steps=8, learning_rate=0.02, batch=len(answers))

    def student() -> KVStudent:
        return KVStudent(weights, whole.head, start, answers, training)

    def stop_at_four(step: int, *_: object) -> None:
        if step == 4:
            raise Stopped("now")

    straight = student()
    losses: list[float] = []
    straight.train(targets, tmp_path / "straight", lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]
    first = student()
    with pytest.raises(Stopped):
        first.train(targets, tmp_path / "broken", stop_at_four)
    second = student()
    second.train(targets, tmp_path / "broken", ignore)
    assert (first.step, second.step) == (4, 8)
    assert torch.allclose(second.kv, straight.kv, atol=1e-3)
    assert not any(parameter.grad is not None for parameter in weights.model.parameters())


def test_a_job_by_distillation(model, whole, tmp_path):
    folder = ordered(
        model,
        tmp_path / "job",
        method="distil",
        ratio=4,
        steps=3,
        most_kl=50,
        exam=[Question(question="What is the code word of Orion Station?", answer="LYNX-64")],
    )
    lessons = [Lesson(question=q, answer=a, before=FACTS) for q, a in ASKED * 2]
    lessons.append(Lesson(question="What is 2 + 2?", answer="4.", before=None))
    exam = folder.order().exam
    folder.lessons.write_text(Lessons(lessons=lessons, exam=exam).model_dump_json())
    report = run(folder, {"compact": make})
    assert report.steps == 3
    assert report.recall is not None
    assert report.recall.ceiling == 1
    assert report.kl is not None
    if report.outcome == "passed":
        assert load_file(folder.compact)["kv"].shape[2] == report.places
    else:
        assert "recall" in report.reasons[0]
        assert not folder.compact.exists()


def test_a_job_by_matching_writes_what_a_server_stores(model, whole, tmp_path):
    folder = ordered(model, tmp_path / "job", ratio=2)
    report = run(folder, {"compact": make})
    assert report.outcome == "passed", report.reasons
    assert report.places == round(len(whole.frame.tokens) / 2)
    assert report.kl is not None
    assert report.kl_unrelated is not None
    assert report.kl_unrelated < report.kl < 0.2
    kv = load_file(folder.compact)["kv"]
    assert list(kv.shape) == [whole.kv.shape[0], 2, report.places, *whole.kv.shape[3:]]
    assert kv.isfinite().all()
    refused = run(ordered(model, tmp_path / "short", ratio=30, most_kl=0.01), {"compact": make})
    assert refused.outcome == "refused"
    assert "answers: KL" in refused.reasons[0]
    assert not (tmp_path / "short" / "compact.safetensors").exists()
    long = run(ordered(model, tmp_path / "long", places=100_000), {"compact": make})
    assert long.outcome == "failed"
    assert "no shorter" in long.reasons[0]
    assert json.loads((tmp_path / "job" / "progress.json").read_text())["phase"] == "ended"


def test_replies_behind_kv_are_those_behind_the_text(weights, whole):
    tails = [
        whole.frame.behind([{"role": "user", "content": question}], "").prompt
        for question, _ in ASKED[:2]
    ]
    behind = weights.continued(tails, ContextKV(whole.kv), 8, ignore)
    front = [*whole.frame.head, *whole.frame.tokens]
    for tail, reply in zip(tails, behind, strict=True):
        tokens = torch.tensor([[*front, *tail]])
        whole_reply = weights.model.generate(
            input_ids=tokens, max_new_tokens=8, do_sample=False, pad_token_id=weights.pad_token
        )
        text = weights.tokenizer.decode(whole_reply[0, tokens.shape[1] :], skip_special_tokens=True)
        assert reply.split()[:5] == text.split()[:5]
