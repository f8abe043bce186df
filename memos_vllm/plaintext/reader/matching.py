"""Whether a clause says what an order to forget names: by subject, words and topic, then by meaning.

subject    the same person: "I am allergic" is not "my son is allergic"
polarity   "I am allergic" is not "I am not allergic"
words      all content words, in any form, or another word of the same topic ("live", "moved")
meaning    where words are missing, the cosine of the embeddings, over that of unrelated text
"""

from __future__ import annotations

import dataclasses
import re
from enum import IntEnum

from memos_vllm.plaintext.english.lexicon import BASE_FORMS
from memos_vllm.plaintext.reader import about, vocabulary, wording
from memos_vllm.plaintext.reader.about import SELF, Clause, Teller
from memos_vllm.plaintext.reader.forgetting import Order
from memos_vllm.plaintext.reader.wording import Word

PARAPHRASE, RELATED = 0.62, 0.3
"""Least lift of the cosine for a clause without some of the words, and for a passing mention."""
_PARTLY, _EASTERN_WHOLE = 0.5, 0.6
_CLOSE = 1 / 3
"""Least share of a clause's words that the order has, where others of the order are missing."""
_ARTICLE = re.compile(
    r"(?:^|\s)(?:the|a|an|our|new|die|der|das|le|la|l'|el|il|lo|o|a)\s*$", re.IGNORECASE
)
_ENDS_LIKE_VERB = re.compile(r"(?:s|ed|ing)$")
BACKGROUND = (
    "The weather was nice yesterday.",
    "Could you help me with this code?",
    "We had a long meeting about the budget.",
    "My brother plays the guitar.",
    "I bought a new bicycle.",
    "She wants to visit Japan next spring.",
)
"""Unrelated sentences: their mean cosine is what a cosine has to stand above."""


_STATES = {topic: re.compile(form, re.IGNORECASE) for topic, form in vocabulary.STATES.items()}


class Fit(IntEnum):
    NONE = 0
    BY_MEANING = 1
    """It matches where its lift is at least `PARAPHRASE`."""
    MENTION = 2
    """It matches where its lift is at least `RELATED`."""
    WHOLE = 3


@dataclasses.dataclass(frozen=True)
class Target:
    """An order, read once for many clauses."""

    order: Order
    clause: Clause
    subject: frozenset[str]
    """Empty: whatever person."""
    terms: tuple[Word, ...]

    @property
    def is_about_people(self) -> bool:
        """Whether it names people and nothing of them: "my sister"."""
        return not self.terms and bool(self.subject - {SELF})


def target_of(order: Order, teller: Teller) -> Target:
    """Read the content of an order, as said by the person."""
    clause = about.read(order.what, teller)
    subject = clause.subjects if clause.is_explicit else frozenset[str]()
    if subject <= {word.text for word in clause.terms}:
        subject = frozenset()  # a name: a word as any other
    if order.is_statement and not clause.is_explicit:
        subject = frozenset({SELF})  # languages leave the pronoun out
    terms = clause.terms
    if not order.is_statement and all(term.text in teller.kin_names for term in terms):
        terms = ()  # "everything about Miso": about the cat, by whatever word
    return Target(order, clause, subject, terms)


def names_anything(order: Order, person: str) -> bool:
    """Whether a content has words: "me and you" has none."""
    target = target_of(order, Teller(SELF, frozenset({person.casefold()})))
    return bool(target.terms or target.is_about_people)


def hint_of(target: Target, teller: Teller) -> re.Pattern[str]:
    """A pattern that every text with a matching clause has; far cheaper than to read it."""
    own = [term for term in target.terms if not about.concepts_of(term.text)]
    whole: list[str] = []
    cues: list[str] = []
    for term in own or target.terms:
        cues.append(term.text[: max(2, (3 * len(term.text)) // 5)])
        whole += _irregular(term.text)
    if not own:
        for term in target.terms:
            for topic in about.concepts_of(term.text):
                stated = _STATES.get(topic)
                cues += wording.cues_of(topic) if stated is None else []
                whole += [f"(?:{stated.pattern})"] if stated is not None else []
    if target.is_about_people:
        for subject in target.subject - {SELF}:
            cues += [subject, *vocabulary.KIN.get(subject, "").split()]
            cues += [name for name, kin in teller.kin_names.items() if kin == subject]
    words = [re.escape(cue) if wording.has_no_case(cue) else rf"\b{re.escape(cue)}" for cue in cues]
    forms = [rf"\b{re.escape(each)}\b" if each.isalpha() else each for each in whole]
    return re.compile("|".join(dict.fromkeys([*words, *forms])) or r"(?!)", re.IGNORECASE)


def fit(target: Target, clause: Clause) -> Fit:
    """How far a clause says what the order names."""
    if target.is_about_people:
        return Fit.WHOLE if target.subject & clause.people else Fit.NONE
    if not target.terms or not _same_subject(target, clause):
        return Fit.NONE
    if target.order.is_statement and target.clause.is_negated != clause.is_negated:
        return Fit.NONE
    direct = [_has(clause, term) for term in target.terms]
    by_topic = [
        bool(about.concepts_of(term.text) & clause.concepts) if not found else True
        for term, found in zip(target.terms, direct, strict=True)
    ]
    for term, found in zip(target.terms, direct, strict=True):
        if (term.is_capital or term.text.isdigit()) and not found:
            return Fit.NONE
    if len(target.terms) == 1 and direct[0] and _is_part_of_a_name(target, clause):
        return Fit.NONE
    share = sum(by_topic) / len(by_topic)
    eastern = _is_eastern(target)
    if share == 1 or (eastern and share >= _EASTERN_WHOLE) or _topic_of_east(target, clause):
        if any(direct):
            passing = len(target.terms) == 1 and not target.order.is_statement
            return Fit.MENTION if passing else Fit.WHOLE
        return Fit.WHOLE if _is_stated(target, clause, eastern) else Fit.NONE
    if target.clause.concepts and clause.concepts and not target.clause.concepts & clause.concepts:
        return Fit.NONE
    is_explicit = clause.is_explicit or not target.subject
    is_close = _has_its_own_words(target, direct) and overlap(clause, target.clause) >= _CLOSE
    return Fit.BY_MEANING if share >= _PARTLY and is_close and is_explicit else Fit.NONE


def matches(found: Fit, lift: float | None) -> bool:
    """Whether a clause matches.

    Args:
        lift: (cosine - background) / (1 - background); None: there is no embedder.
    """
    match found:
        case Fit.WHOLE:
            return True
        case Fit.MENTION:
            return lift is None or lift >= RELATED
        case Fit.BY_MEANING:
            return lift is not None and lift >= PARAPHRASE
    return False


def overlap(one: Clause, other: Clause) -> float:
    """Share of the content words of the first that the second has, 0 to 1."""
    if not one.terms:
        return 0.0
    return sum(_has(other, term) for term in one.terms) / len(one.terms)


def _is_stated(target: Target, clause: Clause, eastern: bool) -> bool:
    """Whether a clause without any word of the order states its topic: "I live in Rome", an address."""
    if not (clause.is_explicit or eastern):
        return False
    shared = target.clause.concepts & clause.concepts
    return any(
        topic not in _STATES or _STATES[topic].search(clause.text) is not None for topic in shared
    )


def _has_its_own_words(target: Target, direct: list[bool]) -> bool:
    """Whether a word that no topic has is there: of "allergic to penicillin", penicillin."""
    own = [not about.concepts_of(term.text) for term in target.terms]
    if not any(own):
        return any(direct)
    return any(found and is_own for found, is_own in zip(direct, own, strict=True))


def _same_subject(target: Target, clause: Clause) -> bool:
    if not target.subject:
        return True
    if clause.subjects:
        if target.subject & clause.subjects:
            return True
        # "The name of your cat is Miso": a person who is the topic, and not the grammatical subject.
        return bool(target.subject - {SELF}) and bool(target.subject & clause.people)
    return target.subject == {SELF}


def _irregular(word: str) -> list[str]:
    base = BASE_FORMS.get(word, word)
    return [base, *(form for form, other in BASE_FORMS.items() if other == base)]


def _has(clause: Clause, term: Word) -> bool:
    return any(wording.is_same_word(term.text, each.text) for each in clause.terms)


def _is_eastern(target: Target) -> bool:
    return any(wording.is_eastern(term.text) for term in target.terms)


def _topic_of_east(target: Target, clause: Clause) -> bool:
    """Whether a short topic in a script without spaces is one of the clause's: "my address"."""
    short = _is_eastern(target) and not target.order.is_statement
    return short and bool(target.clause.concepts & clause.concepts) and len(target.terms) <= 2


def _is_part_of_a_name(target: Target, clause: Clause) -> bool:
    """Whether a topic's only word is part of the name of a thing: "coffee", of "the Coffee app"."""
    (term,) = target.terms
    if wording.is_eastern(term.text):
        behind = clause.text.partition(target.order.what)[2]
        return vocabulary.NAMED_THINGS.match(behind) is not None
    every = wording.words_of(clause.text)
    found = [
        number for number, word in enumerate(every) if wording.is_same_word(term.text, word.text)
    ]
    return bool(found) and all(_names_a_thing(target, clause, every, number) for number in found)


def _names_a_thing(target: Target, clause: Clause, every: list[Word], number: int) -> bool:
    word = every[number]
    behind = clause.text[word.start + len(word.text) :].lstrip(" -'\"\u201d")
    before = clause.text[: word.start].rstrip(" -'\"\u201c")
    asked = target.order.what.casefold()
    if vocabulary.NAMED_THINGS.match(behind):
        return vocabulary.NAMED_THINGS.search(asked) is None
    last = before.split()[-1] if before.split() else ""
    if vocabulary.NAMED_THINGS.fullmatch(last.strip("'")):
        return vocabulary.NAMED_THINGS.search(asked) is None
    if not word.is_capital or number == 0 or clause.language == "de":
        return False
    if any(
        each.text == word.text and each.is_capital for each in wording.words_of(target.order.what)
    ):
        return False
    following = every[number + 1].text if number + 1 < len(every) else ""
    is_noun = (
        bool(following)
        and following not in vocabulary.STOP
        and not _ENDS_LIKE_VERB.search(following)
    )
    return is_noun and _ARTICLE.search(clause.text[: word.start]) is not None
