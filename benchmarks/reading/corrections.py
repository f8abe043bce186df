"""Corrections in natural words, through the whole of memory: is the newest value first, the old one marked?"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.reading.data import DATA, groups
from memos_vllm.cube.ids import PersonId, TenantId, to_us
from memos_vllm.cube.model import Item
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.query import read_text
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.plaintext.search.search import Found
from memos_vllm.system import MemorySystem

TOP_K = 8
_HOME = 0
"""Topic of the groups on where the person lives, which some corrections change."""
HELD_OUT = "corrections_held_out.txt"
_KEYS = (
    *("stale_unmarked", "new_first"),
    *("unrelated_retired", "unrelated_marked", "unrelated_lost"),
)
_FIRST = datetime(2020, 3, 1, 9, tzinfo=UTC)
"""So long ago that no turn of a run, a day apart, is said in the future."""


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    language: str
    before: str
    after: str
    question: str
    old: str
    new: str
    beside: str


def corrections(quick: bool = False, name: str = "corrections.txt") -> list[Correction]:
    """The corrections of a file; `HELD_OUT` is the one whose single cases are not looked into."""
    found = [Correction(*cells) for cells in cells_of(name)]
    return found[::12] if quick else found


def cells_of(name: str) -> list[list[str]]:
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    return [line.split(" | ") for line in lines if not line.startswith("#")]


class Talker:
    """Has turns remembered, a day apart."""

    def __init__(self, system: MemorySystem) -> None:
        self.system = system
        self._rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
        self._count = 0

    def say(self, who: Principal, text: str, reply: str = "I see.") -> None:
        self._count += 1
        moment = _FIRST + timedelta(days=self._count)
        messages = [{"role": "user", "content": text}]
        body = turn_body(
            messages, reply, model="none", request_id=f"r{self._count}", at_us=to_us(moment)
        )
        assert body is not None
        self._rememberer.remember(self.system.turns.add(who, body))

    def served(self, who: Principal, question: str) -> tuple[list[Item], list[Found]]:
        """The profile, and what is retrieved for a question in order."""
        query = read_text(question)
        vector = asyncio.run(self.system.embed_question(who, query.text))
        profile = [i for cube in self.system.views.stable(who, []).texts for i in cube.items]
        found = self.system.search(who, query.text, vector, TOP_K).found
        return profile, self.system.operator.with_beliefs(who, found, vector)


def person(name: str) -> Principal:
    return Principal(TenantId("bench"), Role.WRITER, "bench", PersonId(name), "chat")


def measure(
    talker: Talker, cases: Sequence[Correction], name: str = "corrections"
) -> dict[str, Any]:
    """Shares over all corrections, and by language."""
    rows = [_one(talker, name, number, cases) for number in range(len(cases))]
    result: dict[str, Any] = {"corrections": len(rows)}
    for key in _KEYS:
        result[key] = share(row[key] for row in rows)
    for language in sorted({case.language for case in cases}):
        own = [r for r, case in zip(rows, cases, strict=True) if case.language == language]
        result[f"stale_unmarked_{language}"] = share(row["stale_unmarked"] for row in own)
        result[f"new_first_{language}"] = share(row["new_first"] for row in own)
    return result


def _one(talker: Talker, name: str, number: int, cases: Sequence[Correction]) -> dict[str, float]:
    case = cases[number]
    who = person(f"{name}-{case.language}{number}")
    others = unrelated(case.language, number, cases)
    for text in others:
        talker.say(who, text)
    talker.say(who, case.before)
    talker.say(who, case.beside)
    talker.say(who, case.after)
    profile, found = talker.served(who, case.question)
    lines = [(item.text, _mark_of(item)) for item in profile] + [
        (each.recalled.item.text, end_of(each) or followed_of(each)) for each in found
    ]
    old = [i for i, (text, _) in enumerate(lines) if text == case.before or _has(text, case)]
    new = [i for i, (text, _) in enumerate(lines) if case.new.casefold() in text.casefold()]
    return {
        "stale_unmarked": any(lines[i][1] is None for i in old),
        "new_first": bool(new) and (not old or new[0] < old[0]),
        **_of_others(talker, who, [*others, case.beside]),
    }


def _of_others(talker: Talker, who: Principal, texts: Sequence[str]) -> dict[str, float]:
    """Shares of the facts that are served as ended, that are marked, and that a search for them misses."""
    counts = dict.fromkeys(("unrelated_retired", "unrelated_marked", "unrelated_lost"), 0.0)
    for text in texts:
        _, found = talker.served(who, text)
        own = [each for each in found if each.recalled.item.text == text]
        counts["unrelated_retired"] += any(end_of(each) is not None for each in own) / len(texts)
        counts["unrelated_marked"] += any(followed_of(each) is not None for each in own) / len(
            texts
        )
        counts["unrelated_lost"] += (not own) / len(texts)
    return counts


def unrelated(language: str, number: int, cases: Sequence[Correction]) -> list[str]:
    """Four statements in the language on other things: from the groups of changes, else of other cases."""
    every = [g.before[0] for g in groups() if g.language == language and g.topic != _HOME]
    if not every:
        own = cases[number : number + 1]
        every = [case.beside for case in cases if case.language == language and case not in own]
    return random.Random(number).sample(every, 4)


def _has(text: str, case: Correction) -> bool:
    """Whether a text states the old value alone: a claim in the words of a rule."""
    folded = text.casefold()
    return (
        case.old.casefold() in folded
        and case.new.casefold() not in folded
        and text not in (case.beside, case.after)
    )


def end_of(found: Found) -> Any:
    claim = found.recalled.item.claim
    return found.over or (claim.ends if claim is not None else None)


def followed_of(found: Found) -> Any:
    """Time of the later statement that a result is marked with."""
    claim = found.recalled.item.claim
    return found.followed or (claim.followed_at if claim is not None else None)


def _mark_of(item: Item) -> Any:
    return (item.claim.ends or item.claim.followed_at) if item.claim is not None else None


def share(values: Iterable[float]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else 0.0
