"""The project's own sentences: statements and others, frames for training, and groups of changes.

    statements/XX.txt  `p`reference, `c`onstraint, `i`nstruction, `f`act, or `n`one, and a sentence a line
    frames/XX.txt      the same with a place for a noun; the first line lists nouns; for training only
    changes/XX.txt     groups: `-` what held, `>` what replaced it, `+` what does not concern it

A third of the statements and of the changes' topics is held out: no training uses it.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"
LANGUAGES = ("de", "en", "es", "fr", "hi", "ja", "pt", "zh")
KIND_OF = {"n": 0, "p": 1, "c": 2, "i": 3, "f": 4}
"""Position in `statements.weights.KINDS`."""
# Topics of the English groups that the other languages have, too, in the order of their files.
_SHARED_TOPICS = (0, 1, 2, 3, 5, 6, 4, 10, 14, 15)
_HELD_OUT = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    language: str
    kind: int
    text: str
    is_held_out: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    language: str
    topic: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def is_held_out(self) -> bool:
        return self.topic % _HELD_OUT == 2


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    old: str
    new: str
    language: str
    replaces: bool
    is_held_out: bool


def statements() -> list[Sentence]:
    found = []
    for language in LANGUAGES:
        for line in _lines("statements", language):
            held_out = zlib.crc32(line.encode()) % _HELD_OUT == 0
            found.append(Sentence(language, KIND_OF[line[0]], line[2:], held_out))
    return found


def framed(share: float = 0.5) -> list[Sentence]:
    """Each frame with a share of its language's nouns, at most eight."""
    found = []
    for language in LANGUAGES:
        first, *frames = _lines("frames", language)
        nouns, chance = first[2:].split("|"), random.Random(0)
        for frame in frames:
            for noun in chance.sample(nouns, min(8, int(share * len(nouns)))):
                text = frame[2:].replace("{}", noun)
                found.append(Sentence(language, KIND_OF[frame[0]], text[0].upper() + text[1:]))
    return found


def groups() -> list[Group]:
    found = []
    for language in LANGUAGES:
        text = (DATA / "changes" / f"{language}.txt").read_text(encoding="utf-8")
        for number, block in enumerate(text.strip().split("\n\n")):
            lines = block.splitlines()
            before, after, beside = (
                tuple(line[2:] for line in lines if line[0] == mark) for mark in "->+"
            )
            topic = number if language == "en" else _SHARED_TOPICS[number]
            found.append(Group(language, topic, before, after, beside))
    return found


def pairs() -> list[Pair]:
    """Pairs of one group, and a sample of pairs of two groups, of which none replaces."""
    chance = random.Random(0)
    every = groups()
    found = []
    for group in every:
        held_out = group.is_held_out
        others = [
            other
            for other in every
            if (other.language, other.is_held_out) == (group.language, held_out)
            and other.topic != group.topic
        ]
        for old, new, replaces in _of_group(group):
            found.append(Pair(old, new, group.language, replaces, held_out))
        for other in others:
            for old in (*group.before, *group.beside):
                new = chance.choice(other.after)
                found.append(Pair(old, new, group.language, False, held_out))
    return found


def _of_group(group: Group) -> Iterator[tuple[str, str, bool]]:
    for new in group.after:
        yield from ((old, new, True) for old in group.before)
        yield from ((old, new, False) for old in group.beside)
    for new in group.beside:
        yield from ((old, new, False) for old in group.before)


def _lines(folder: str, language: str) -> list[str]:
    text = (DATA / folder / f"{language}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]
