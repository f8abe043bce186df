"""The workload: people of several tenants, each with a profile, a history and chats about it.

Every text is made from a seed, so that all arms and all runs see the same one.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

TENANTS, PEOPLE_PER_TENANT = 24, 2
HISTORY_TURNS, SESSION_TURNS = 200, 20
"""Turns of a person's history, the assistant's included, and turns of one session of it."""
BASE_SENTENCES, PROFILE_SENTENCES = 62, 10
"""Some 1,500 tokens of knowledge base, 200 of profile."""
CHAT_TURNS = 4

_THINGS = [
    "lantern",
    "violin",
    "kettle",
    "bicycle",
    "camera",
    "carpet",
    "teapot",
    "saddle",
    "canoe",
    "telescope",
    "piano",
    "mirror",
]
_LOOKS = [
    "copper",
    "silver",
    "yellow",
    "wooden",
    "broken",
    "antique",
    "green",
    "heavy",
    "striped",
    "painted",
    "tiny",
    "borrowed",
]
_PLACES = [
    "Lisbon",
    "Oslo",
    "Kyoto",
    "Quito",
    "Dakar",
    "Turin",
    "Perth",
    "Hanoi",
    "Tallinn",
    "Cusco",
    "Malmo",
    "Riga",
]
_PEOPLE = [
    "Marta",
    "Jonas",
    "Ines",
    "Pavel",
    "Noor",
    "Diego",
    "Lena",
    "Omar",
    "Sofia",
    "Viktor",
    "Amara",
    "Felix",
]
_DEEDS = ["repaired", "bought", "sold", "lent", "lost", "found", "photographed", "insured"]
_PRODUCTS = ["Basalt", "Cedar", "Dune", "Ember", "Fjord", "Grove", "Heron", "Islet"]
_RULES = (
    "is returned within {n} days when its seal is whole",
    "is serviced every {n} weeks by a certified partner",
    "costs {n} euros a month in the team plan",
    "ships from the warehouse in {place} within {n} hours",
    "is not sold to customers in {place} before day {n} of the quarter",
    "needs approval by {name} for orders above {n} units",
)


@dataclasses.dataclass(frozen=True)
class Turn:
    speaker: str
    text: str
    time: datetime


@dataclasses.dataclass(frozen=True)
class Person:
    name: str
    tenant: str
    profile: tuple[str, ...]
    sessions: tuple[tuple[Turn, ...], ...]
    """Their history, oldest first."""

    @property
    def turns(self) -> Iterator[Turn]:
        for session in self.sessions:
            yield from session

    def questions(self, chat: int) -> list[str]:
        """What the person writes in the turns of a chat, each about one turn of the history.

        Args:
            chat: number of the chat; other numbers give other questions.
        """
        dice = random.Random(f"{self.name}/{chat}")
        said = [turn for turn in self.turns if turn.speaker == self.name]
        return [_question(turn, dice) for turn in dice.sample(said, CHAT_TURNS)]


def base_of(tenant: str) -> str:
    """The tenant's knowledge base, in the prompt of all of its people."""
    dice = random.Random(f"base of {tenant}")
    sentences = []
    for number in range(BASE_SENTENCES):
        rule = dice.choice(_RULES).format(
            n=dice.randint(2, 90), place=dice.choice(_PLACES), name=dice.choice(_PEOPLE)
        )
        sentences.append(
            f"{number + 1}. The {dice.choice(_PRODUCTS)}-{dice.randint(10, 99)} {rule}."
        )
    return "\n".join(sentences)


def people() -> list[Person]:
    """All people, those of different tenants in turn."""
    return [
        _person(f"{name.lower()}-{tenant}", f"tenant-{tenant}")
        for name in _PEOPLE[:PEOPLE_PER_TENANT]
        for tenant in range(TENANTS)
    ]


def _person(name: str, tenant: str) -> Person:
    dice = random.Random(name)
    start = datetime(2026, 1, 5, 9, tzinfo=UTC)
    sessions = []
    for number in range(HISTORY_TURNS // SESSION_TURNS):
        day = start + timedelta(days=5 * number)
        turns: list[Turn] = []
        while len(turns) < SESSION_TURNS:
            time = day + timedelta(minutes=len(turns))
            thing = f"{dice.choice(_LOOKS)} {dice.choice(_THINGS)}"
            said = (
                f"{dice.choice(_PEOPLE)} and I {dice.choice(_DEEDS)} the {thing} in "
                f"{dice.choice(_PLACES)}, which took {dice.randint(2, 60)} days and {dice.randint(5, 900)} euros."
            )
            answer = f"Noted: the {thing}. Is there anything about it that I should look up?"
            turns += [Turn(name, said, time), Turn("assistant", answer, time)]
        sessions.append(tuple(turns))
    profile = tuple(
        f"{name.split('-')[0].capitalize()}'s {what} is {dice.choice(_LOOKS)} {dice.choice(_THINGS)} "
        f"number {dice.randint(1, 99)} in {dice.choice(_PLACES)}."
        for what in _profile_topics()
    )
    return Person(name, tenant, profile, tuple(sessions))


def _profile_topics() -> list[str]:
    topics = (
        "favourite shop, oldest friend's house, first job, meeting point, spare key, holiday home, "
    )
    topics += "weekly order, team mascot, parking place, emergency contact"
    return topics.split(", ")[:PROFILE_SENTENCES]


def _question(turn: Turn, dice: random.Random) -> str:
    thing = turn.text.partition(" the ")[2].partition(" in ")[0]
    place = turn.text.partition(" in ")[2].partition(",")[0]
    return dice.choice(
        (
            f"How many days did the {thing} in {place} take us?",
            f"Who was with me for the {thing} in {place}?",
            f"What did we pay for the {thing} in {place}, and would it cost more today?",
        )
    )
