"""Entity graph of memory: its nodes, and items one hop away."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import alembic.command
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.entities import entities_of, entity_key
from memos_vllm.cube.model import Access, Claim, CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.principal import Role
from memos_vllm.plaintext.reader.query import read_text
from memos_vllm.steps import BUILT_IN, Recall
from memos_vllm.system import MemorySystem
from memos_vllm.vault.database import alembic_config
from memos_vllm.vault.entities import RARE
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")
SISTER = Item(
    text="alice's sister is called Maria",
    claim=Claim(subject="alice", attribute="sister.name", value="Maria"),
)
WORK = Item(text="Maria started at Siemens in Munich.", time=datetime(2026, 3, 1, tzinfo=UTC))


def keep(system, who, *items, **meta):
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=list(items)))
    return system.create(who, [new])[0]


def linked(system, question, who=ALICE):
    found = system.operator.search(who, question, None, 3)
    recall = Recall(who, read_text(question), found.found, found.further)
    after = BUILT_IN["link"](system)(recall)
    return [(each.recalled.item.text, each.via) for each in after.found[len(found.found) :]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Maria started at Siemens in Munich.", {"Maria", "Siemens", "Munich"}),
        ("Thanks! What a day in New York it was.", {"New York"}),
        ("On Monday I met Tom's friend Anna.", {"Tom", "Anna"}),
        ("I'm off. Don't wait for me, please.", set()),
        ("Where is it? It is HERE.", set()),
    ],
)
def test_names_are_found_and_words_that_begin_a_sentence_are_none(text, named):
    assert {each.name for each in entities_of(Item(text=text))} == named


def test_kinds_come_from_claims_and_from_the_words_around():
    home = Claim(subject="alice", attribute="home", value="Paris")
    kinds = {
        each.name: each.kind
        for item in (
            SISTER,
            WORK,
            Item(text="alice lives in Paris", speaker="Dr. Who", claim=home),
        )
        for each in entities_of(item)
    }
    assert kinds["alice"] == kinds["Dr. Who"] == "person"
    assert kinds["Paris"] == kinds["Munich"] == "place"
    assert kinds["Siemens"] == "thing"
    assert entity_key("Tom\u2019s") == entity_key("tom")
    assert entities_of(Item(text="I see.", speaker="assistant")) == []


def test_the_graph_follows_changes_of_items(system):
    cube = keep(system, ALICE, SISTER, WORK)
    known = {each.name: each for each in system.entities.known(ALICE)}
    assert known["Maria"].items == 2
    assert known["Maria"].kind == "person", "a claim says so"
    assert known["Maria"].first == known["Maria"].last == WORK.time
    assert [each.name for each in system.entities.known(ALICE, "place")] == ["Munich"]
    assert [item.text for _, item in system.entities.naming(ALICE, "maria")] == [
        WORK.text,
        SISTER.text,
    ]
    left = CubePatch(payload=ExplicitPayload(content=[SISTER]))
    system.update(ALICE, cube.meta.id, left)
    assert "Siemens" not in {each.name for each in system.entities.known(ALICE)}
    system.delete(ALICE, cube.meta.id)
    assert system.entities.known(ALICE) == []


def test_the_migration_adds_existing_items_to_the_graph(database_url, tmp_path):
    """On both databases, and a hop works on them."""
    system = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    keep(system, ALICE, SISTER)
    keep(system, ALICE, WORK)
    known = system.entities.known(ALICE)
    assert {each.name for each in known} >= {"Maria", "Siemens"}
    config = alembic_config()
    with system.database.engine.connect() as plain:
        connection = plain.execution_options(memos_writes=True)
        with connection.begin():
            config.attributes["connection"] = connection
            alembic.command.downgrade(config, "0003")
    assert "mentions" not in sa.inspect(system.database.engine).get_table_names()
    system.database.migrate()
    assert system.entities.known(ALICE) == known
    assert linked(system, "Where does my sister work?") == [(WORK.text, "Maria")]
    system.close()


def test_one_hop_finds_an_item_that_shares_no_word_with_the_question(system):
    keep(system, ALICE, SISTER)
    keep(system, ALICE, WORK)
    keep(system, ALICE, Item(text="Bread is good with butter."))
    assert linked(system, "Where does my sister work?") == [(WORK.text, "Maria")]
    assert linked(system, "What of Maria and my sister?") == [], "found by its name already"
    assert linked(system, "Is bread good?") == []


def test_a_frequent_name_links_no_items(system):
    keep(system, ALICE, SISTER)
    keep(system, ALICE, *(Item(text=f"Number {n}: we saw Maria again.") for n in range(RARE + 1)))
    assert linked(system, "Do I have a sister?") == []


def test_an_ended_claim_is_not_reached_by_a_hop(system):
    over = Claim(subject="Maria", attribute="employer", value="Siemens")
    over.ends = datetime(2020, 1, 1, tzinfo=UTC)
    keep(system, ALICE, SISTER)
    keep(system, ALICE, WORK.model_copy(update={"claim": over}))
    assert linked(system, "Where does my sister work?") == []


def test_a_hop_stays_in_the_person_s_own_memory(system):
    admin = dataclasses.replace(ALICE, role=Role.ADMIN, person="")
    keep(system, ALICE, SISTER)
    keep(system, BOB, WORK)
    keep(system, principal("alice", "globex"), WORK)
    keep(system, admin, WORK, shared=True, access=Access(readers=["bob"]))
    assert linked(system, "Where does my sister work?") == []
    assert [each.name for each in system.entities.known(BOB)] == ["Maria", "Munich", "Siemens"]
    keep(system, admin, WORK, shared=True)
    assert linked(system, "Where does my sister work?") == [(WORK.text, "Maria")]


def test_names_in_a_cube_with_a_reader_list_are_hidden_from_a_key_without_a_person(system):
    admin = dataclasses.replace(ALICE, role=Role.ADMIN, person="")
    keep(system, admin, WORK, shared=True, access=Access(readers=["bob"]))
    keep(system, admin, Item(text="We met Tom in Rome."), shared=True)
    key_only = dataclasses.replace(ALICE, role=Role.READER, person="")
    assert {each.name for each in system.entities.known(key_only)} == {"Rome", "Tom"}
    assert system.entities.naming(key_only, "Maria") == []


def test_entities_over_http(system):
    keep(system, ALICE, SISTER, WORK)
    app = create_app(system)

    def client(person):
        _, key = system.keys.create("acme", Role.WRITER)
        headers = {"Authorization": f"Bearer {key}", "X-Memos-User": person}
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    http = client("alice")
    shown = http.get("/v1/memory/entities", params={"kind": "person"}).json()["entities"]
    assert [(each["name"], each["items"]) for each in shown] == [("Maria", 2), ("alice", 1)]
    edges = http.get("/v1/memory/entities/Maria").json()["edges"]
    assert [each["item"]["text"] for each in edges] == [WORK.text, SISTER.text]
    assert http.get("/v1/memory/entities/Nobody").status_code == 404  # prose: a name in a request
    assert http.get("/v1/memory/entities", params={"kind": "ghost"}).status_code == 400
    assert client("bob").get("/v1/memory/entities/Maria").status_code == 404
