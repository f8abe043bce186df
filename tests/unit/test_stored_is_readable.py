"""What is stored is readable: bad times are refused, and damage costs what is damaged."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    State,
)
from memos_vllm.errors import Conflict
from memos_vllm.governance.principal import Role
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, freeze, principal

ALICE = dataclasses.replace(principal("alice"), session="s")
UNREADABLE = (
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59Z",
)


def create(system, *items: Item, name: str = "facts of hers", **meta):
    new = NewCube(meta=NewMeta(name=name, **meta), payload=ExplicitPayload(content=list(items)))
    return system.create(ALICE, [new])[0]


def fact(text: str, **claim) -> Item:
    return Item(type=ItemType.FACT, text=text, claim=Claim(subject="alice", **claim))


def remember(system, text: str, request_id: str = "r-1", who=ALICE) -> str:
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    messages = [{"role": "user", "content": text}]
    body = turn_body(messages, "I see.", model="demo", request_id=request_id, at_us=now_us())
    turn = rememberer.accept(who, body)
    rememberer.remember(turn)
    return turn


def texts(system) -> dict[str, list[str]]:
    headers, _ = system.views.page(ALICE, CubeFilter(person="alice"))
    return {each.name: [i.text for i in system.vault.get(ALICE, each.id).items] for each in headers}


@pytest.mark.parametrize("moment", UNREADABLE)
@pytest.mark.parametrize("field", ["begins", "ends", "last_seen"])
def test_a_time_that_some_zone_cannot_show_is_refused(field: str, moment: str) -> None:
    with pytest.raises(ValidationError, match="between the years"):
        Claim.model_validate({"subject": "alice", field: moment})


@pytest.mark.parametrize("moment", UNREADABLE)
def test_items_and_cubes_refuse_it_too(moment: str) -> None:
    with pytest.raises(ValidationError, match="between the years"):
        Item.model_validate({"text": "a", "time": moment})
    with pytest.raises(ValidationError, match="between the years"):
        NewMeta.model_validate({"expires": moment})
    with pytest.raises(ValidationError, match="between the years"):
        CubePatch.model_validate({"expires": moment})


def test_a_time_without_a_zone_is_compared_with_others(system) -> None:
    create(
        system, fact("alice lives in Rome.", attribute="home", value="Rome", begins="2020-01-01")
    )
    (known,) = system.knowledge.claims(ALICE)
    assert known.item.claim.begins.tzinfo is not None


DAMAGES = {
    "claim that is a list": {"claim": "[1]"},
    "claim without a subject": {"claim": '{"seen": 1}'},
    "claim of another form": {"claim": '{"subject": "a", "seen": "often"}'},
    "unknown type": {"type": "poem"},
    "unknown mark": {"mark": "lost"},
    "time beyond all years": {"time_us": 9_000_000_000_000_000_000},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_item_costs_itself_alone(system, damage: str) -> None:
    create(
        system, fact("Her teapot is green."), Item(text="Her teapot is old."), placement="stable"
    )
    name, value = next(iter(DAMAGES[damage].items()))
    with system.database.write() as session:
        session.execute(
            sa.text(f"UPDATE items SET {name} = :value WHERE text LIKE '%green%'"),
            {"value": value},
        )
    found = system.search(ALICE, "her teapot", None, 8).found
    assert [each.recalled.item.text for each in found] == ["Her teapot is old."]
    stable = system.views.stable(ALICE, []).texts
    assert [item.text for cube in stable for item in cube.items] == ["Her teapot is old."]
    system.knowledge.claims(ALICE)


def test_a_time_that_was_stored_unchecked_keeps_its_meaning(system) -> None:
    create(system, fact("Her car is red.", attribute="car", value="red", ends="2021-01-01T00:00Z"))
    with system.database.write() as session:
        claim = (
            '{"subject": "alice", "attribute": "car", "value": "red", "sources": ["r:user"], '
            '"ends": "0001-01-01T00:00:00+14:00"}'
        )
        session.execute(sa.text("UPDATE items SET claim = :claim"), {"claim": claim})
    assert system.search(ALICE, "her car", None, 8).found == [], "it has ended"
    past = system.operator.search(ALICE, "her car", None, 8, about_past=True).found
    assert [each.recalled.item.text for each in past] == ["Her car is red."]
    assert past[0].over is not None


@pytest.mark.parametrize(
    "number", ["foo", "", "0", "-1", "01", "9" * 11, "9" * 12, "9" * 30, "\u0662", "1 ", "2#3"]
)
def test_a_cube_of_any_name_stops_no_session(system, number: str) -> None:
    create(system, Item(text="by hand"), name=f"chat-s#{number}")
    create(system, Item(text="by hand, too"), name=f"facts#{number}")
    remember(system, "I live in Rome.")
    remember(system, "I work as a nurse.", "r-2")
    assert system.turns.waiting() == []
    assert texts(system)["chat-s#1"] == [
        "I live in Rome.",
        "I see.",
        "I work as a nurse.",
        "I see.",
    ]


def test_a_session_passes_over_numbers_that_are_taken(system) -> None:
    for number in range(1, 4):
        create(system, Item(text="by hand"), name=f"chat-s#{number}")
    remember(system, "Hello there.")
    assert texts(system)["chat-s#4"] == ["Hello there.", "I see."]
    assert texts(system)["chat-s#3"] == ["by hand"]


@pytest.mark.parametrize("state", [State.FROZEN, State.ARCHIVED])
@pytest.mark.parametrize("number", [1, 999_999_999_999])
def test_cubes_that_look_like_parts_in_every_way_stop_no_session(system, number, state) -> None:
    for at in range(number, number - 12, -1):
        if at > 0:
            cube = create(system, Item(text="by hand"), name=f"chat-s#{at}", tags=["chat"])
            admin = dataclasses.replace(ALICE, role=Role.ADMIN)
            system.update(admin, cube.meta.id, CubePatch(state=state, reason="case 7"))
    remember(system, "Hello there.")
    remember(system, "Hello again.", "r-2")
    assert system.turns.waiting() == []
    chats = [said for name, said in texts(system).items() if name.startswith("chat-")]
    said = [each for each in chats if "Hello there." in each]
    assert said == [["Hello there.", "I see.", "Hello again.", "I see."]]


@pytest.mark.parametrize("cascade", [False, True])
def test_a_frozen_cube_is_not_deleted_and_neither_is_what_it_came_from(system, cascade) -> None:
    cube = create(system, Item(text="evidence"))
    freeze(system, cube.meta.id)
    with pytest.raises(Conflict, match="frozen"):
        system.delete(ALICE, cube.meta.id, cascade=cascade)
    assert texts(system)["facts of hers"] == ["evidence"]


def test_a_profile_made_by_hand_stays_as_it_is(system) -> None:
    create(system, Item(text="by hand"), name="profile")
    remember(system, "I am allergic to peanuts.")
    assert system.turns.waiting() == []
    assert texts(system)["profile"] == ["by hand"]


@pytest.mark.parametrize("name", ["profile", "facts#1", "chat-s#1"])
def test_a_damaged_cube_of_hers_stops_no_turn(system, name: str) -> None:
    remember(system, "I am allergic to peanuts. My cat is called Miso.")
    cube = system.vault.get(ALICE, name)
    with system.database.read() as session:
        digest = session.execute(
            sa.text("SELECT payload_sha256 FROM versions WHERE id = :id"),
            {"id": cube.meta.version},
        ).scalar_one()
    (file,) = [path for path in system.config.root.rglob(f"*{digest}*") if path.is_file()]
    file.write_bytes(b"{}")
    remember(system, "I live in Rome. I am allergic to cats.", "r-2")
    assert system.turns.waiting() == []


def test_a_frozen_part_is_followed_by_a_new_one(system) -> None:
    remember(system, "Hello there.")
    freeze(system, "chat-s#1")
    remember(system, "Hello again.", "r-2")
    assert texts(system)["chat-s#2"] == ["Hello again.", "I see."]


@pytest.mark.parametrize("session", ["4111111111111111", "my password is hunter22", "a" * 300])
def test_a_session_named_like_a_secret_is_remembered(system, session: str) -> None:
    who = dataclasses.replace(ALICE, session=session)
    for number in range(2):
        remember(system, f"Hello number {number}.", f"r-{number}", who)
    assert system.turns.waiting() == []
    chats = [said for name, said in texts(system).items() if name.startswith("chat-")]
    assert chats == [["Hello number 0.", "I see.", "Hello number 1.", "I see."]]
