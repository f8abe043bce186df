"""One attribute for one property: spellings, synonyms, relatives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.english.attributes import canonical, relative, slug, thing
from memos_vllm.plaintext.english.spelling import one_spelling
from memos_vllm.plaintext.reader.by_rules import read_claims

SPELLINGS = """
color colour/colors colours/favorite favourite/flavor flavour/flavored flavoured/neighbor neighbour
neighborhood neighbourhood/honor honour/humor humour/labor labour/harbor harbour/behavior behaviour
colorful colourful/coloring colouring/odor odour/rumor rumour/savory savoury/armor armour/parlor parlour
organize organise/organization organisation/analyze analyse/realize realise/customized customised
specialization specialisation/apologizing apologising/paralyzed paralysed/socializing socialising
center centre/theater theatre/theaters theatres/fiber fibre/liter litre/kilometer kilometre
traveler traveller/traveling travelling/modeling modelling/jewelry jewellery/counselor counsellor
canceled cancelled/marvelous marvellous/labeled labelled/woolen woollen
gray grey/catalog catalogue/dialog dialogue/defense defence/license licence/program programme
yoghurt yogurt/donut doughnut/pajamas pyjamas/mustache moustache/cozy cosy/math maths/mom mum
"""
PAIRS = [tuple(pair.split()) for line in SPELLINGS.strip().splitlines() for pair in line.split("/")]


@pytest.mark.parametrize(("american", "british"), PAIRS)
def test_american_and_british_spellings_are_one(american: str, british: str) -> None:
    assert one_spelling(american) == one_spelling(british)
    assert slug(american.title()) == slug(british)


OTHERS = (
    *(
        "doctor",
        "actor",
        "tractor",
        "motor",
        "four",
        "hour",
        "tour",
        "flour",
        "your",
        "size",
        "prize",
    ),
    *("seize", "citizen", "selling", "spelling", "killing", "yellow", "pillow", "taller", "ballet"),
    *(
        "pizza",
        "lazy",
        "dozen",
        "frozen",
        "horizon",
        "laboratory",
        "honorary",
        "rigorous",
        "vigorous",
    ),
    *(
        "humorous",
        "harbinger",
        "ardent",
        "meteor",
        "labrador",
        "colorado",
        "better",
        "water",
        "never",
    ),
    *("dinner", "sister", "butter", "wise", "rise", "surprise", "exercise"),
)


@pytest.mark.parametrize("word", OTHERS)
def test_other_words_keep_their_spelling(word: str) -> None:
    assert one_spelling(word) == word


@given(st.text(alphabet="abcdefghijklmnorstuvwyz", max_size=12))
def test_the_one_spelling_is_its_own(word: str) -> None:
    assert one_spelling(one_spelling(word)) == one_spelling(word)


@pytest.mark.parametrize(
    "names",
    [
        ("job", "occupation", "Profession", "works as", "job_title", "current role", "career"),
        ("employer", "company", "works at", "works_for", "workplace", "current employer"),
        ("home", "city", "lives in", "residence", "current_city"),
        ("phone", "phone number", "cell", "cell_phone", "mobile number", "telephone", "mobile"),
        ("email", "e-mail", "email address"),
        ("spouse.name", "wife name", "husband.name", "partner_name"),
        ("mother.name", "mom name", "mum.name", "mama_name"),
        ("father.name", "dad_name", "daddy.name"),
        ("flatmate.name", "roommate name", "housemate.name"),
        ("favourite.colour", "favorite color", "favourite_colour", "favorite.colour"),
        ("birthday", "birth date", "date_of_birth", "dob"),
        ("diet", "dietary preference"),
    ],
)
def test_synonyms_of_an_attribute_are_one(names: tuple[str, ...]) -> None:
    assert {canonical(name, "x")[0] for name in names} == {names[0]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("owns:flat", "owns:apartment"),
        ("owns:red bike", "owns:red bicycle"),
        ("likes:gray cats", "likes:grey cats"),
        ("owns:motorbike", "owns:motorcycle"),
        ("likes:movies", "likes:films"),
    ],
)
def test_words_for_one_thing_are_one_attribute(one: str, other: str) -> None:
    assert canonical(one, None)[0] == canonical(other, None)[0]


def test_words_for_other_things_are_not() -> None:
    assert len({thing(word) for word in ("cat", "dog", "flat", "house", "car", "bike")}) == 6
    assert len({relative(word) for word in ("wife", "sister", "girlfriend", "older sister")}) == 4


SAME = [
    ("My favorite color is red", "My favourite colour is blue"),
    ("My mom's name is Ann", "My mum is called Beth"),
    ("My wife is called Ann", "My partner's name is Beth"),
    ("I work as a nurse", "My occupation is teacher"),
    ("My profession is nurse", "I'm a teacher"),
    ("My cell number is 555 1234", "My phone number is 555 9876"),
    ("My mobile is 555 1234", "My telephone number is 555 9876"),
    ("My roommate is called Ann", "My flatmate's name is Beth"),
    ("My favorite movie is Alien", "My favourite film is Heat"),
    ("My kitten is called Miso", "My cat is named Tofu"),
    ("My neighbor is called Ann", "My neighbour's name is Beth"),
    ("My favorite theater is Globe", "My favourite theatre is Old Vic"),
    ("I don't like gray walls", "I love grey walls"),
    ("I have two kids", "I have three children"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_wordings_of_a_property_are_claims_about_one_attribute(one: str, other: str) -> None:
    attributes = set()
    for text in (one, other):
        turn = Item(
            type=ItemType.EPISODE,
            text=text,
            speaker="alice",
            time=datetime(2023, 5, 1, tzinfo=UTC),
            source="m",
        )
        (item,) = read_claims([turn], "alice")
        assert item.claim is not None
        attributes.add(item.claim.attribute)
    assert len(attributes) == 1
