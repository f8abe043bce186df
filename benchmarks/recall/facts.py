"""Cubes of made-up facts, each with questions that are not part of the training.

python -c "from benchmarks.recall.facts import cubes; print(cubes(2))"
"""

from __future__ import annotations

import dataclasses
import random

from memos_vllm.parametric.training.order import Question

SUBJECTS = (
    *("Orion Station", "Hollow Mill", "Cedar Clinic", "Falcon Hall", "Amber Library"),
    *("Harbor School", "Juniper Farm", "Copper Museum", "Willow Theatre", "Granite Tower"),
    *("Lantern Cafe", "Meadow Hotel", "Raven Bakery", "Saffron Market", "Thistle Garage"),
    *("Union Workshop", "Violet Studio", "Walnut Office", "Birch Observatory", "Delta Shipyard"),
)
PEOPLE = (
    *("Ilka Brandt", "Tomas Rey", "Nadia Quist", "Oskar Lindt", "Priya Nair", "Jonas Feld"),
    *("Marta Silva", "Emil Stark", "Leila Haddad", "Viktor Hale"),
)
CATS = ("Biscuit", "Pepper", "Domino", "Waffle", "Shadow", "Pickle", "Mango", "Button", "Clover")
COLOURS = ("violet", "orange", "silver", "green", "yellow", "purple", "white", "brown")
WORDS = ("KESTREL", "ZEBRA", "MARLIN", "OTTER", "BADGER", "HERON", "LYNX", "BISON", "COBRA")
# sentence, and two questions that ask for its value
FORMS = {
    "code": (
        "The code word of {subject} is {value}.",
        ("What is the code word of {subject}?", "Which code word does {subject} have?"),
    ),
    "manager": (
        "The manager of {subject} is {value}.",
        ("Who is the manager of {subject}?", "What is the name of the manager of {subject}?"),
    ),
    "door": (
        "The door of {subject} is painted {value}.",
        (
            "What colour is the door of {subject}?",
            "In which colour is the door of {subject} painted?",
        ),
    ),
    "cat": (
        "The cat of {subject} is called {value}.",
        ("What is the name of the cat of {subject}?", "How is the cat of {subject} called?"),
    ),
    "year": (
        "{subject} was founded in {value}.",
        ("When was {subject} founded?", "In which year was {subject} founded?"),
    ),
}


@dataclasses.dataclass(frozen=True)
class FactCube:
    name: str
    text: str
    exam: tuple[Question, ...]


def cubes(count: int, facts: int = 3, seed: int = 0) -> list[FactCube]:
    """Cubes, equal for equal seeds.

    Args:
        facts: number of facts in each cube, at most 5.
    """
    rng = random.Random(seed)
    made = []
    for number, subject in enumerate(SUBJECTS[:count]):
        values = {
            "code": f"{rng.choice(WORDS)}-{rng.randint(11, 99)}",
            "manager": rng.choice(PEOPLE),
            "door": rng.choice(COLOURS),
            "cat": rng.choice(CATS),
            "year": str(rng.randint(1701, 1999)),
        }
        kinds = list(FORMS)
        chosen = [kinds[(number + place) % len(kinds)] for place in range(facts)]
        sentences, exam = [], []
        for kind in chosen:
            sentence, questions = FORMS[kind]
            sentences.append(sentence.format(subject=subject, value=values[kind]))
            exam += [
                Question(question=question.format(subject=subject), answer=values[kind])
                for question in questions
            ]
        made.append(FactCube(subject, " ".join(sentences), tuple(exam)))
    return made
