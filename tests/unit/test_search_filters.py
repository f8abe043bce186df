"""Filters of a search: what they admit, that they come before the cut, and that they permit nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.filters import ItemFilter, read_filter
from memos_vllm.cube.model import Access, Claim, ExplicitPayload, Item, Mark, NewCube, NewMeta
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")
ADMIN, STRANGER = principal("", role=Role.ADMIN), principal("alice", tenant="globex")


def day(month, number=1, year=2020):
    return datetime(year, month, number, tzinfo=UTC)


ITEMS = [
    Item(type="episode", text="boat zero", speaker="alice", time=day(1), session="s1", source="r1:user"),
    Item(type="episode", text="boat one", speaker="assistant", time=day(1), session="s1", source="r1:reply"),
    Item(type="episode", text="boat two", speaker="alice", time=day(2), session="s2", source="r2:user"),
    Item(type="passage", text="boat three", source="handbook.pdf, page 7"),
    Item(type="event", text="boat four", time=day(1), claim=Claim(subject="a", begins=day(5))),
    Item(type="fact", text="boat five", time=day(1), claim=Claim(subject="a", attribute="x", begins=day(2), ends=day(4), sources=["r0"])),
    Item(type="fact", text="boat six", time=day(3), claim=Claim(subject="a", attribute="y", begins=day(3))),
    Item(type="episode", text="boat seven", speaker="assistant", session="s2", mark=Mark.CUT),
]  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
STANDARD = {"zero", "one", "two", "three", "four", "six"}
"""Without filters: five has ended, seven is no evidence."""


def store(system, who, items, name=None, **meta):
    cube = NewCube(meta=NewMeta(name=name, **meta), payload=ExplicitPayload(content=items))
    return system.create(who, [cube])[0].meta.id


def found(system, who, tree, top_k=50):
    where = read_filter(tree) if tree is not None else None
    result = system.search(who, "boat", None, top_k, where=where)
    return {each.recalled.item.text.removeprefix("boat ") for each in result.found}


@pytest.fixture
def stored(system):
    store(system, ALICE, ITEMS, "fleet", tags=["sea", "old"])
    store(system, ALICE, [Item(text="boat lake")], "lake", tags=["sea"])
    return system


CASES = [
    (None, STANDARD | {"lake"}),
    ({}, STANDARD | {"lake"}),
    ({"types": "episode"}, {"zero", "one", "two"}),
    ({"types": ["passage", "event"]}, {"three", "four", "lake"}),
    ({"types": {"none": ["episode", "passage"]}}, {"four", "six"}),
    ({"types": "turn"}, {"zero", "one", "two"}),
    ({"speaker": "alice"}, {"zero", "two"}),
    ({"speaker": {"none": ["assistant"]}}, STANDARD - {"one"} | {"lake"}),
    ({"session": "s1"}, {"zero", "one"}),
    ({"session": ["s1", "s2"], "speaker": "alice"}, {"zero", "two"}),
    ({"source": "r2:user"}, {"two"}),
    ({"source": {"prefix": "handbook.pdf"}}, {"three"}),
    ({"source": {"prefix": "handbook%"}}, set()),
    ({"tags": "sea"}, STANDARD | {"lake"}),
    ({"tags": {"all": ["sea", "old"]}}, STANDARD),
    ({"tags": {"any": ["sea"], "none": ["old"]}}, {"lake"}),
    ({"cube": "lake"}, {"lake"}),
    ({"cube": {"none": ["fleet"]}}, {"lake"}),
    ({"cube": "absent"}, set()),
    ({"said": {"from": "2020-02-01"}}, {"two", "six"}),
    ({"said": {"until": "2020-02-01"}}, {"zero", "one", "four", "five"}),
    ({"said": {"from": "2020-02-01T00:00:00+01:00", "until": "2020-02-02"}}, {"two"}),
    ({"said": {"from": "2020-01-31T23:00:00-02:00"}}, {"six"}),
    ({"event": {"from": "2020-05-01", "until": "2020-06-01"}}, {"four", "six"}),
    ({"event": {"from": "2020-02-10", "until": "2020-02-20"}}, {"five"}),
    ({"event": {"until": "2020-02-01"}}, set()),
    ({"marked": True, "session": "s2"}, {"two", "seven"}),
]


@pytest.mark.parametrize(("tree", "expected"), CASES)
def test_a_filter_admits_what_its_conditions_say(stored, tree, expected):
    assert found(stored, ALICE, tree) == expected


@pytest.mark.parametrize("dense", [False, True])
def test_a_filter_comes_before_the_cut(system, dense):
    best = [Item(text=f"boat boat {n}", session="loud") for n in range(200)]
    store(system, ALICE, [*best, Item(text="a boat, of sorts, somewhere", session="quiet")])
    where = read_filter({"session": "quiet"})
    vector = system.embedder.embed(["boat"])[0] if dense else None
    result = system.search(ALICE, "boat", vector, 1, where=where)
    assert [each.recalled.item.session for each in result.found] == ["quiet"]


def test_a_filter_permits_nothing(system):
    item = [Item(text="boat secret", speaker="x", session="s", source="d")]
    store(system, BOB, item, "bobs", tags=["t"])
    store(system, STRANGER, item, "strangers", tags=["t"])
    store(system, ADMIN, item, "closed", tags=["t"], shared=True, access=Access(readers=["bob"]))
    store(system, ALICE, [Item(text="boat work")], "work", tags=["t", "persona:work"])
    for tree in (None, {"tags": "t"}, {"speaker": "x"}, {"session": "s"}, {"source": "d"},
                 {"cube": ["bobs", "strangers", "closed", "work"]}, {"types": "passage"}):  # fmt: skip
        assert found(system, ALICE, tree) == set(), tree
        if tree is not None:
            assert system.filters.matching(ALICE, read_filter(tree)) == frozenset()
    assert found(system, BOB, {"cube": ["bobs", "closed"]}) == {"secret"}
    assert found(system, ALICE.in_persona("work"), {"tags": "t"}) == {"work"}


BAD = [
    {"tag": "x"},
    {"types": "thought"},
    {"types": []},
    {"session": {"some": ["x"]}},
    {"said": {}},
    {"said": {"from": "last week"}},
    {"said": {"from": "2020-13-01"}},
    {"said": {"from": "2020-02-01", "until": "2020-01-01"}},
    {"said": {"from": "2020-02-01", "until": "2020-02-01"}},
    {"event": {"since": "2020-02-01"}},
    {"speaker": "a\x00b"},
    {"speaker": 7},
    {"cube": ["x"] * 101},
]


@pytest.fixture
def http(system):
    app = create_app(system)

    def client(tenant, person):
        _, key = system.keys.create(tenant, Role.WRITER)
        headers = {"Authorization": f"Bearer {key}", "X-Memos-User": person}
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    return client


@pytest.mark.parametrize("tree", BAD)
def test_a_bad_filter_is_a_400_that_names_its_place(http, tree):
    with pytest.raises(BadRequest):
        read_filter(tree)
    reply = http("acme", "alice").post("/v1/memory/search", json={"query": "b", "filters": tree})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert "filters" in error["param"]


@pytest.mark.parametrize(
    "query",
    ["speakers=x", "type=thought", "said_from=soon", "said_from=2020-02-01&said_until=2020-01-01",
     "top_k=0", "marked=perhaps", "tag="],
)  # fmt: skip
def test_a_bad_query_parameter_is_a_400(http, query):
    reply = http("acme", "alice").get(f"/v1/memory/search?query=boat&{query}")
    assert reply.status_code == 400, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_both_routes_search_with_the_same_filters_for_the_caller_alone(stored, http):
    store(stored, BOB, [Item(type="episode", text="boat bob", speaker="alice", time=day(2))])
    tree = {"speaker": ["alice"], "types": ["episode"], "said": {"from": "2020-02-01"}}
    query = "query=boat&speaker=alice&type=episode&said_from=2020-02-01"
    for tenant, person, expected in (
        ("acme", "alice", ["boat two"]),
        ("acme", "bob", ["boat bob"]),
        ("globex", "alice", []),
    ):
        client = http(tenant, person)
        posted = client.post("/v1/memory/search", json={"query": "boat", "filters": tree})
        got = client.get(f"/v1/memory/search?{query}")
        for reply in (posted, got):
            assert reply.status_code == 200, reply.text
            assert [hit["item"]["text"] for hit in reply.json()["results"]] == expected


def test_a_result_says_when_it_ceased_to_hold(stored, http):
    tree = {"event": {"from": "2020-02-10", "until": "2020-02-20"}}
    body = {"query": "boat five", "filters": tree}
    (hit,) = http("acme", "alice").post("/v1/memory/search", json=body).json()["results"]
    assert hit["over"].startswith("2020-04-01")


def test_a_filter_reads_its_own_json(system):
    tree = {"tags": {"all": ["a"]}, "said": {"from": "2020-01-01"}, "source": {"prefix": "x"}}
    where = read_filter(tree)
    again = ItemFilter.model_validate(json.loads(where.model_dump_json(by_alias=True)))
    assert again == where
