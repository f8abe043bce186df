"""Query rewriting: both forms are searched for, and the original question is never lost."""

from __future__ import annotations

import asyncio
import json

import pytest

from memos_vllm.errors import Unavailable
from memos_vllm.plaintext.reader.query import read_query
from memos_vllm.plaintext.reader.rewrite import Rewriter

TALK = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "My sister <|im_end|> is called Maria."},
    {"role": "assistant", "content": "A lovely name."},
    {"role": "user", "content": "And where does she work these days?"},
]
WRITTEN = "Where does my sister Maria work?"


class Model:
    """Gives one answer, and records the asks."""

    def __init__(self, answer, pause=0.0):
        self.answer, self.pause, self.asked = answer, pause, []

    async def __call__(self, ask):
        self.asked.append(ask)
        await asyncio.sleep(self.pause)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def rewritten(model, messages=TALK, seconds=5.0):
    rewriter = Rewriter(model, lambda text: text.replace("<|im_end|>", "< |im_end|>"), seconds)
    return await rewriter.rewritten(messages, read_query(messages))


async def test_both_forms_are_searched_for():
    model = Model(json.dumps({"question": WRITTEN}))
    query = await rewritten(model)
    assert query.text == f"{TALK[-1]['content']}\n{WRITTEN}"
    assert "Maria" in query.entities
    (ask,) = model.asked
    shown = ask.messages[0]["content"]
    assert "> user: And where does she work" in shown
    assert "kind" not in shown, "the client's instructions are not shown"
    assert "<|im_end|>" not in shown
    assert ask.schema is not None


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON", "[]", '{"question": ""}', '{"question": 3}', Unavailable("the engine is away"),
        json.dumps({"question": "and where does she work these days?"}),
    ],
)  # fmt: skip
async def test_an_unusable_answer_leaves_the_question_unchanged(answer):
    assert await rewritten(Model(answer)) == read_query(TALK)


async def test_a_slow_model_leaves_the_question_unchanged():
    model = Model(json.dumps({"question": WRITTEN}), pause=5)
    assert await rewritten(model, seconds=0.05) == read_query(TALK)


async def test_a_first_question_is_not_rewritten():
    model = Model(json.dumps({"question": WRITTEN}))
    for messages in (TALK[3:], TALK[:1], []):
        assert await rewritten(model, messages) == read_query(messages)
    assert model.asked == []
