"""Self-study: the model that is served writes down what it would be asked about a text, and answers.

Questions are written about one sentence at a time, so that each of them is covered; they are answered
with its passage in front, as a served prompt has it.  An answer that the sentence does not support is
dropped: a small model makes things up.  Beside questions there are continuations (the model is given
the beginning of a sentence), names that it is asked about in general, and answers about other things,
given without the text: what must not change.

Sources: context distillation (Askell et al., arXiv 2112.00861; Snell et al., arXiv 2209.15189), self-study
with several kinds of seed prompts (Cartridges, arXiv 2506.06266), questions as the data by which a text
is learnt (synthetic continued pretraining, arXiv 2409.07431; Generative Adapter, arXiv 2411.05877).
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
"""Asked about names, in lessons and of an adapter that is put into words."""
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
    """What stood before it; None: nothing, it is about something else."""


class Lessons(Strict):
    lessons: list[Lesson]
    exam: list[Question]
    dropped: int = 0
    """Questions that the model could not answer from what it was asked about."""


@dataclasses.dataclass(frozen=True)
class Draft:
    """A question and where its answer stands."""

    question: str
    sentence: Item
    passage: Item
    is_known: bool = False
    """The sentence itself is an answer to it."""


def study(
    order: Order, writer: Writer, escape: Escape, done: Callable[[int, int], None]
) -> Lessons:
    """Lessons about the order's passages, and questions that are kept out of them.

    Args:
        escape: breaks up the tokenizer's control strings in what is shown.
        done: told (written, all) now and then; may raise to stop.
    """
    recipe = order.recipe
    parts = [
        (item.model_copy(update={"text": sentence}), item)
        for item in order.passages
        for sentence in sentences(item.text)
    ]
    asks = [
        (part, _ask_for_question(part[0].text, recipe.seed + turn))
        for part in parts
        for turn in range(recipe.questions)
    ]
    written = writer.write([ask for _, ask in asks], lambda count: done(count, 3 * len(asks)))
    drafts: dict[tuple[str, str], Draft] = {}
    for (part, _), text in zip(asks, written, strict=True):
        if (question := read_question(text)) is not None:
            drafts.setdefault((part[0].text, question), Draft(question, *part))
    for passage in order.passages:
        for name in names_in([passage.text]):
            about = " ".join(each for each in sentences(passage.text) if name in each)
            draft_of = passage.model_copy(update={"text": about})
            for form in ABOUT:
                question = form.format(name)
                drafts[about, question] = Draft(question, draft_of, passage, True)
    for part in parts:
        for question in _continuations(part[0].text):
            drafts.setdefault((part[0].text, question), Draft(question, *part, True))
    begun = len(asks)
    # If every question were asked twice, and each of the everyday ones.
    expected = begun + 2 * len(drafts) + len(EVERYDAY)

    def so_far(count: int) -> None:
        done(begun + count, expected)

    lessons, rest = _answer(
        writer, escape, recipe, list(drafts.values()), lambda d: d.passage, so_far
    )
    begun += len(drafts)
    # A small model loses its way among several sentences: it is asked again with the one.
    again, rest = _answer(writer, escape, recipe, rest, lambda d: d.sentence, so_far)
    lessons += again
    # Where the sentence is an answer, what the model does not find is read to it.
    lessons += [
        Lesson(question=draft.question, answer=draft.sentence.text, before=[draft.sentence])
        for draft in rest
        if draft.is_known
    ]
    exam = order.exam or list(_held_out(lessons))
    kept_out = {_plain(question.question) for question in exam}
    lessons = [lesson for lesson in lessons if _plain(lesson.question) not in kept_out]
    begun = expected - len(EVERYDAY)
    lessons += _everyday(writer, escape, recipe, len(lessons), so_far)
    done(expected, expected)
    return Lessons(lessons=lessons, exam=exam, dropped=sum(not d.is_known for d in rest))


def told(before: Sequence[Item] | None, question: str, escape: Escape) -> list[Message]:
    """The chat in which a question is asked, as it is served with these items in the prompt."""
    asked: list[Message] = [{"role": "user", "content": question}]
    return place(asked, [quote_cube(None, before, escape)], []) if before else asked


def read_question(text: str) -> str | None:
    """From what the model wrote: JSON, or a line that ends in a question mark."""
    try:
        text = str(json.loads(text)["question"])
    except (ValueError, KeyError, TypeError):
        text = text.strip().split("\n")[0]
    text = text.strip().strip('"').strip()
    return text if text.endswith("?") and len(words_of(text)) > 1 else None


def supported(question: str, answer: str, sentence: str) -> bool:
    """Whether the answer says something that the question does not, and the sentence says most of it."""
    news = key_words(question, answer)
    return bool(news) and len(news & words_of(sentence)) >= _SUPPORT * len(news)


def key_words(question: str, answer: str) -> set[str]:
    """Words of an answer that carry it: those that the question does not have."""
    return words_of(answer) - words_of(question) - EMPTY


def by_overlap(question: str, texts: Sequence[str]) -> list[int]:
    """Places of the texts, those first that share most words with the question."""
    asked = words_of(question) - EMPTY
    shared = [len(asked & words_of(text)) for text in texts]
    return sorted(range(len(texts)), key=lambda place: -shared[place])


def is_right(reply: str, wanted: str) -> bool:
    """Whether a reply holds all words of the wanted answer, whatever stands around them."""
    return words_of(wanted) <= words_of(reply)


def precision(statements: Sequence[str], source: Sequence[str]) -> float | None:
    """Share of the statements that some sentence of the source says; None: there are none."""
    if not statements:
        return None
    told = [sentence for text in source for sentence in sentences(text)]
    right = sum(any(is_like(statement, sentence) for sentence in told) for statement in statements)
    return round(right / len(statements), 4)


def _answer(
    writer: Writer,
    escape: Escape,
    recipe: Recipe,
    drafts: Sequence[Draft],
    before: Callable[[Draft], Item],
    done: Callable[[int], None],
) -> tuple[list[Lesson], list[Draft]]:
    """Answers that their sentences support, and the questions without one."""
    asks = [
        Ask(told([before(draft)], draft.question, escape), recipe.answer_tokens) for draft in drafts
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
    count = min(len(EVERYDAY), round(related * recipe.unrelated))
    questions = random.Random(recipe.seed).sample(EVERYDAY, count)
    most = min(_EVERYDAY_TOKENS, recipe.answer_tokens)
    asks = [Ask(told(None, question, escape), most) for question in questions]
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
    heat = _TEMPERATURES[seed % len(_TEMPERATURES)]
    return Ask(messages, _QUESTION_TOKENS, temperature=heat, seed=seed, schema=_SCHEMA)


def _continuations(sentence: str) -> Iterator[str]:
    """The sentence's beginnings, each in several manners of asking for the rest."""
    words = sentence.rstrip(".!").split()
    for reach in range(max(2, len(words) // 2), len(words)):
        start = " ".join(words[:reach])
        for manner in (_MANNERS[reach % len(_MANNERS)], _MANNERS[(reach + 2) % len(_MANNERS)]):
            yield manner.format(start)


def _held_out(lessons: Sequence[Lesson]) -> Iterator[Question]:
    """One question of each answer that several questions have."""
    of: dict[frozenset[str], list[Lesson]] = {}
    for lesson in lessons:
        if lesson.question.endswith("?"):
            wanted = key_words(lesson.question, lesson.answer)
            of.setdefault(frozenset(wanted), []).append(lesson)
    for words, asked in of.items():
        if len({_plain(lesson.question) for lesson in asked}) > 1:
            yield Question(question=asked[0].question, answer=" ".join(sorted(words)))


def _plain(question: str) -> str:
    return " ".join(sorted(words_of(question)))
