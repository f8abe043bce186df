"""Self-study: the base model writes questions about a text and answers them, as training data.

Questions are written per sentence, for coverage, and answered with the passage in the prompt, as in a
served prompt.  Answers that the sentence does not support are dropped: small models hallucinate.  Other
lessons: continuations of a sentence's beginning, general questions about names, and general questions
answered without the text, whose answers must not change.

Sources: context distillation (Askell et al., arXiv 2112.00861; Snell et al., arXiv 2209.15189), self-study
with several kinds of seed prompts (Cartridges, arXiv 2506.06266), synthetic questions as training data
(synthetic continued pretraining, arXiv 2409.07431; Generative Adapter, arXiv 2411.05877).
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence

from memos_vllm.cube.model import Item
from memos_vllm.parametric.training.everyday import EVERYDAY
from memos_vllm.parametric.training.order import Order, Question, Recipe, Strict
from memos_vllm.prompt.layout import place, quote_cube
from memos_vllm.prompt.quoting import Escape
from memos_vllm.prompt.sentences import EMPTY, is_like, names_in, sentences, words_of
from memos_vllm.writer.base import Ask, Message, Writer

_QUESTION_TOKENS = 48
_EVERYDAY_TOKENS = 24
_SHOWN = 3
_SUPPORT = 0.6
_ASKED = "Write one question that this text answers.\n"
_SHOTS = (
    ("The bridge over the river was built in 1912.", "When was the bridge over the river built?"),
    ("Maria's brother plays the trumpet.", "Which instrument does Maria's brother play?"),
    ("The key to the cellar hangs behind the stove.", "Where does the key to the cellar hang?"),
    ("Doctor Owens is in charge of the laboratory.", "Who is in charge of the laboratory?"),
    ("The blue boat costs 90 crowns.", "How much does the blue boat cost?"),
)
_MANNERS = (
    "Complete this sentence: {}",
    "What do you know about this: {}",
    "Tell me: {}",
    "{} what?",
    "I forgot how this ends: {}",
)
ABOUT = ("What do you know about {}?", "Tell me about {}.")
"""Questions about names, in lessons and in decoding."""
_TEMPERATURES = (0.3, 0.7, 0.9)
_SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string", "maxLength": 300}},
    "required": ["question"],
    "additionalProperties": False,
}


class Lesson(Strict):
    """A question and an answer that the model gave."""

    question: str
    answer: str
    before: list[Item] | None
    """The text in the prompt of the answer; None: a general question."""


class Lessons(Strict):
    lessons: list[Lesson]
    exam: list[Question]
    dropped: int = 0
    """Questions without a supported answer."""


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question with the sentence that answers it."""

    question: str
    sentence: Item
    passage: Item
    is_known: bool = False
    """Whether the sentence itself is a valid answer."""


def study(
    order: Order, writer: Writer, escape: Escape, done: Callable[[int, int], None]
) -> Lessons:
    """Lessons on the order's passages, and held-out questions for the exam.

    Args:
        escape: breaks up the tokenizer's control strings in the text.
        done: called with (written texts, expected texts); may raise to stop.
    """
    recipe = order.recipe
    parts = [
        (item.model_copy(update={"text": sentence}), item)
        for item in order.passages
        for sentence in sentences(item.text)
    ]
    finished = len(parts) * recipe.questions
    drafts = _drafts(order, parts, writer, lambda count: done(count, 3 * finished))
    # The most: every question is asked twice, and every general one once.
    expected = finished + 2 * len(drafts) + len(EVERYDAY)

    def report(count: int) -> None:
        done(finished + count, expected)

    lessons, rest = _answer(writer, escape, recipe, drafts, lambda d: d.passage, report)
    finished += len(drafts)
    # Small models miss facts in long passages: retry with the sentence alone.
    retried, rest = _answer(writer, escape, recipe, rest, lambda d: d.sentence, report)
    lessons += retried
    # Where the sentence is a valid answer, it replaces the missing one.
    lessons += [
        Lesson(question=draft.question, answer=draft.sentence.text, before=[draft.sentence])
        for draft in rest
        if draft.is_known
    ]
    exam = order.exam or list(_held_out(lessons))
    held_out = {_plain(question.question) for question in exam}
    lessons = [lesson for lesson in lessons if _plain(lesson.question) not in held_out]
    finished = expected - len(EVERYDAY)
    lessons += _everyday(writer, escape, recipe, len(lessons), report)
    done(expected, expected)
    return Lessons(lessons=lessons, exam=exam, dropped=sum(not d.is_known for d in rest))


def _drafts(
    order: Order,
    parts: Sequence[tuple[Item, Item]],
    writer: Writer,
    done: Callable[[int], None],
) -> list[Draft]:
    """Distinct questions: written ones, about names, and continuations.

    Args:
        parts: (sentence, its passage).
    """
    recipe = order.recipe
    asks = [
        (part, _ask_for_question(part[0].text, recipe.seed + number))
        for part in parts
        for number in range(recipe.questions)
    ]
    written = writer.write([ask for _, ask in asks], done)
    drafts: dict[tuple[str, str], Draft] = {}
    for (part, _), text in zip(asks, written, strict=True):
        if (question := read_question(text)) is not None:
            drafts.setdefault((part[0].text, question), Draft(question, *part))
    for passage in order.passages:
        for name in names_in([passage.text]):
            about = " ".join(each for each in sentences(passage.text) if name in each)
            sentence = passage.model_copy(update={"text": about})
            for form in ABOUT:
                question = form.format(name)
                drafts[about, question] = Draft(question, sentence, passage, True)
    for part in parts:
        for question in _continuations(part[0].text):
            drafts.setdefault((part[0].text, question), Draft(question, *part, True))
    return list(drafts.values())


def question_messages(
    context: Sequence[Item] | None, question: str, escape: Escape
) -> list[Message]:
    """Messages of a question, with the items in the prompt as in a served request.

    Args:
        context: the items; None: no memory in the prompt.
    """
    messages: list[Message] = [{"role": "user", "content": question}]
    return place(messages, [quote_cube(None, context, escape)], []) if context else messages


def read_question(text: str) -> str | None:
    """Parse a written question: JSON, or a line that ends in a question mark; else None."""
    try:
        text = str(json.loads(text)["question"])
    except (ValueError, KeyError, TypeError):
        text = text.strip().split("\n")[0]
    text = text.strip().strip('"').strip()
    return text if text.endswith("?") and len(words_of(text)) > 1 else None


def supported(question: str, answer: str, sentence: str) -> bool:
    """Whether an answer adds words to the question, and the sentence contains most of them."""
    added = key_words(question, answer)
    return bool(added) and len(added & words_of(sentence)) >= _SUPPORT * len(added)


def key_words(question: str, answer: str) -> set[str]:
    """Content words of an answer that the question does not contain."""
    return words_of(answer) - words_of(question) - EMPTY


def by_overlap(question: str, texts: Sequence[str]) -> list[int]:
    """Indices of the texts, sorted by words shared with the question, most first."""
    asked = words_of(question) - EMPTY
    shared = [len(asked & words_of(text)) for text in texts]
    return sorted(range(len(texts)), key=lambda index: -shared[index])


def is_right(reply: str, wanted: str) -> bool:
    """Whether a reply contains all words of the expected answer."""
    return words_of(wanted) <= words_of(reply)


def precision(statements: Sequence[str], source: Sequence[str]) -> float | None:
    """Share of the statements that a sentence of the source supports; None: no statements."""
    if not statements:
        return None
    stated = [sentence for text in source for sentence in sentences(text)]
    right = sum(any(is_like(claim, sentence) for sentence in stated) for claim in statements)
    return round(right / len(statements), 4)


def _answer(
    writer: Writer,
    escape: Escape,
    recipe: Recipe,
    drafts: Sequence[Draft],
    before: Callable[[Draft], Item],
    done: Callable[[int], None],
) -> tuple[list[Lesson], list[Draft]]:
    """(lessons with supported answers, drafts without one)."""
    asks = [
        Ask(question_messages([before(draft)], draft.question, escape), recipe.answer_tokens)
        for draft in drafts
    ]
    lessons, rest = [], []
    for draft, answer in zip(drafts, writer.write(asks, done), strict=True):
        if supported(draft.question, answer, draft.sentence.text):
            lesson = Lesson(question=draft.question, answer=answer.strip(), before=[before(draft)])
            lessons.append(lesson)
        else:
            rest.append(draft)
    return lessons, rest


def _everyday(
    writer: Writer, escape: Escape, recipe: Recipe, related: int, done: Callable[[int], None]
) -> list[Lesson]:
    """Lessons on general questions, answered without the text."""
    count = min(len(EVERYDAY), round(related * recipe.unrelated))
    questions = random.Random(recipe.seed).sample(EVERYDAY, count)
    most = min(_EVERYDAY_TOKENS, recipe.answer_tokens)
    asks = [Ask(question_messages(None, question, escape), most) for question in questions]
    return [
        Lesson(question=question, answer=answer.strip(), before=None)
        for question, answer in zip(questions, writer.write(asks, done), strict=True)
        if answer.strip()
    ]


def _ask_for_question(text: str, seed: int) -> Ask:
    shots = random.Random(seed).sample(_SHOTS, _SHOWN)
    messages = [
        message
        for shown, question in shots
        for message in (
            {"role": "user", "content": _ASKED + shown},
            {"role": "assistant", "content": json.dumps({"question": question})},
        )
    ]
    messages.append({"role": "user", "content": _ASKED + text})
    temperature = _TEMPERATURES[seed % len(_TEMPERATURES)]
    return Ask(messages, _QUESTION_TOKENS, temperature=temperature, seed=seed, schema=_SCHEMA)


def _continuations(sentence: str) -> Iterator[str]:
    """Questions for the rest of a sentence, from several of its beginnings."""
    words = sentence.rstrip(".!").split()
    for reach in range(max(2, len(words) // 2), len(words)):
        start = " ".join(words[:reach])
        for manner in (_MANNERS[reach % len(_MANNERS)], _MANNERS[(reach + 2) % len(_MANNERS)]):
            yield manner.format(start)


def _held_out(lessons: Sequence[Lesson]) -> Iterator[Question]:
    """One question for each answer that several questions have."""
    by_answer: dict[frozenset[str], list[Lesson]] = {}
    for lesson in lessons:
        if lesson.question.endswith("?"):
            words = key_words(lesson.question, lesson.answer)
            by_answer.setdefault(frozenset(words), []).append(lesson)
    for answer, asked in by_answer.items():
        if len({_plain(lesson.question) for lesson in asked}) > 1:
            yield Question(question=asked[0].question, answer=" ".join(sorted(answer)))


def _plain(question: str) -> str:
    """A question as its sorted words, to compare wordings."""
    return " ".join(sorted(words_of(question)))
