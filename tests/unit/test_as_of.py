"""Memory as of a past moment: what was known then, and nothing that was deleted since."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.as_of import read_moment
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    Access,
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    Placement,
    State,
)
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Role
from memos_vllm.learning.feedback import Feedback
from memos_vllm.steps.as_of import search
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import CubeFilter
from tests.conftest import freeze, principal
from tests.unit.conftest import ALICE
from tests.unit.moments import ADMIN, BOB, change, keep, now


def found(system, question, as_of, who=ALICE, **more):
    result = search(system, who, as_of, question, more.pop("top_k", 10), **more)
    return [each.recalled.item.text for each in result.found]


@pytest.fixture
def http(system):
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    return TestClient(create_app(system), headers=headers, raise_server_exceptions=False)


# -- moments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ago", [3600, 3600.0, "3600", "3600.0"])
def test_seconds_ago(ago):
    assert abs((datetime.now(UTC) - read_moment(ago)).total_seconds() - 3600) < 5


def test_a_time_with_a_zone_is_one_moment_in_every_zone():
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for zone in (
        UTC,
        timezone(timedelta(hours=14)),
        timezone(timedelta(hours=-9, minutes=-30)),
    ):
        assert read_moment(moment.astimezone(zone).isoformat()) == moment
    assert read_moment("2026-03-01T12:00:00Z") == moment


@pytest.mark.parametrize(
    "bad",
    [
        "2026-03-01T12:00:00", "2026-03-01", "yesterday", "", "-5", -5, 1e300, float("nan"), float("inf"),
        True, None, [], {}, "9999-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1" * 400, "2026-02-30T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_past_moment_is_refused(bad):
    with pytest.raises(ValueError):  # noqa: PT011
        read_moment(bad)


def test_a_future_moment_is_a_400_on_every_route(system, http):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    where = quote(later)
    replies = [
        http.get(f"/v1/memory/cubes?as_of={where}"),
        http.get(f"/v1/memory/cubes/x?as_of={where}"),
        http.get(f"/v1/memory/search?query=x&as_of={where}"),
        http.post("/v1/memory/search", json={"query": "x", "as_of": later}),
    ]
    assert [reply.status_code for reply in replies] == [400] * 4
    assert "future" in replies[0].json()["error"]["message"]


# -- what was then ------------------------------------------------------------------------------------


def test_a_changed_text_is_found_as_it_was_at_each_moment(system, http):
    before = now()
    cube = keep(system, "The meeting is in the blue room.", name="notes")
    first = now()
    change(system, cube, "The meeting is in the green room.")
    second = now()
    keep(system, "The meeting has a second room, the attic.")
    assert found(system, "Which room is the meeting in?", before) == []
    assert found(system, "Which room is the meeting in?", first) == [
        "The meeting is in the blue room."
    ]
    assert found(system, "Which room is the meeting in?", second) == [
        "The meeting is in the green room."
    ]
    assert len(found(system, "Which room is the meeting in?", now())) == 2
    at = quote(first.isoformat())
    assert (
        http.get(f"/v1/memory/cubes/notes?as_of={at}")
        .json()["payload"]["content"][0]["text"]
        .endswith("blue room.")
    )
    hits = http.post("/v1/memory/search", json={"query": "room", "as_of": first.isoformat()}).json()
    assert [hit["item"]["text"] for hit in hits["results"]] == ["The meeting is in the blue room."]
    assert http.get(f"/v1/memory/search?query=room&as_of={at}").json()["results"] == hits["results"]
    assert http.get(f"/v1/memory/cubes/notes?as_of={quote(before.isoformat())}").status_code == 404
    assert [c["name"] for c in http.get(f"/v1/memory/cubes?as_of={at}").json()["cubes"]] == [
        "notes"
    ]
    assert http.get(f"/v1/memory/cubes?as_of={quote(before.isoformat())}").json()["cubes"] == []
    both = http.get(f"/v1/memory/cubes/notes?as_of={at}&version=v")
    assert both.status_code == 400


def test_a_corrected_fact_is_shown_as_it_was_believed(system, chat):
    chat("My cat is called Miso.")
    first = now()
    chat("My cat is called Tofu now, not Miso.")
    assert any("Miso" in text for text in found(system, "What is my cat called?", first))
    assert not any("Tofu" in text for text in found(system, "What is my cat called?", first))
    assert any("Tofu" in text for text in found(system, "What is my cat called?", now()))


def test_state_placement_and_tags_are_those_of_then(system, http):
    cube = keep(system, "The code word is heron.", name="words", tags=["old"])
    first = now()
    change(system, cube, state=State.ARCHIVED, tags=["new"], placement=Placement.STABLE)
    second = now()
    assert found(system, "code word", first) == ["The code word is heron."]
    assert found(system, "code word", second) == []
    header = http.get(f"/v1/memory/cubes?as_of={quote(first.isoformat())}").json()["cubes"][0]
    assert (header["state"], header["placement"], header["tags"]) == (
        "activated",
        "retrieved",
        ["old"],
    )
    page = http.get(f"/v1/memory/cubes?state=archived&as_of={quote(first.isoformat())}").json()
    assert page["cubes"] == []


def test_pages_of_a_past_moment_have_each_cube_once(system, http):
    names = [f"n{number}" for number in range(5)]
    for name in names:
        keep(system, name, name=name)
    at = quote(now().isoformat())
    keep(system, "later", name="later")
    seen, cursor = [], ""
    while True:
        page = http.get(f"/v1/memory/cubes?limit=2&as_of={at}{cursor}").json()
        seen += [cube["name"] for cube in page["cubes"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == names[::-1]


def test_filters_hold_at_a_past_moment(system, http):
    keep(system, "The boat is blue.", tags=["sea"], name="boat")
    keep(system, "The bus is blue.", tags=["land"], name="bus")
    at = now().isoformat()
    change(system, "boat", "The boat is red.")
    for filters, texts in (
        ({"tags": ["sea"]}, ["The boat is blue."]),
        ({"cube": "bus"}, ["The bus is blue."]),
        ({"tags": {"none": ["sea"]}}, ["The bus is blue."]),
        ({"types": ["fact"]}, []),
        ({"speaker": "bob"}, []),
        ({"said": {"from": "2020-01-01"}}, []),
    ):
        body = {"query": "blue", "as_of": at, "filters": filters}
        hits = http.post("/v1/memory/search", json=body).json()["results"]
        assert [hit["item"]["text"] for hit in hits] == texts, filters


def test_a_changed_item_is_found_by_meaning_too(system):
    cube = keep(system, "Penicillin makes me ill.", "The hall is painted white.", name="n")
    first = now()
    change(system, cube, "The weather is fine.")
    result = search(system, ALICE, first, "Which medicine does she not tolerate?", 2)
    assert result.degraded is None
    best = result.found[0]
    assert best.recalled.item.text == "Penicillin makes me ill."
    assert "dense_turn" in best.signals


# -- what is deleted ----------------------------------------------------------------------------------


def test_a_deleted_cube_is_in_no_past_moment(system, http):
    keep(system, "The canary sings at noon.", name="canary")
    first = now()
    system.delete(ALICE, "canary")
    assert found(system, "canary", first) == []
    at = quote(first.isoformat())
    assert http.get(f"/v1/memory/cubes/canary?as_of={at}").status_code == 404
    assert http.get(f"/v1/memory/cubes?as_of={at}").json()["cubes"] == []


def everywhere(system, moments, who=ALICE):
    """All texts that any of the moments shows, by search, list and get."""
    texts = set()
    for moment in moments:
        at_us = round(moment.timestamp() * 1e6)
        texts.update(found(system, "Paris lives home city cat", moment, who=who, top_k=100))
        for header in system.past.page(who, at_us, CubeFilter())[0]:
            texts.update(item.text for item in system.past.get(who, header.id, at_us).items)
    return " ".join(sorted(texts))


@pytest.mark.parametrize("purged", [False, True])
def test_what_was_forgotten_is_in_no_past_moment_before_and_after_the_purge(system, chat, purged):
    chat("I live in Paris.")
    chat("My cat is called Miso.")
    moments = [now()]
    # The text stands in older versions of several cubes, and in other words.
    change(system, "chat-s#1", "I live in Paris, the capital.", "My cat is called Miso.")
    moments.append(now())
    done = Feedback(system).say(ALICE, "Forget that I live in Paris")
    moments += [to_datetime(us) for us in made_around(system)]
    if purged:
        purge(system)
    text = everywhere(system, moments)
    assert "Paris" not in text
    assert "Miso" in text or purged
    assert done.undo


def made_around(system):
    """Moments between the microseconds of all versions, where a border would be wrong."""
    with system.database.read() as session:
        times = session.scalars(sa.text("SELECT created_us FROM versions")).all()
        times += session.scalars(sa.text("SELECT at_us FROM forgettings")).all()
    return sorted({each + shift for each in times for shift in (-1, 0, 1)})


def purge(system):
    with system.database.read() as session:
        subjects = session.scalars(sa.text("SELECT subject FROM jobs WHERE name = 'purge'")).all()
    assert subjects
    for subject in subjects:
        system.forgotten.purge(subject)


def test_undone_forgetting_shows_the_past_again(system, chat):
    chat("I live in Paris.")
    first = now()
    done = Feedback(system).say(ALICE, "Forget that I live in Paris")
    assert "Paris" not in everywhere(system, [first])
    Feedback(system).undo(ALICE, done.undo)
    assert "Paris" in everywhere(system, [first])


def test_after_a_purge_what_was_said_by_then_is_still_shown(system, chat):
    chat("My cat is called Miso.")
    chat("I live in Paris.")
    first = now()
    chat("My dog is called Rex.")
    Feedback(system).say(ALICE, "Forget that I live in Paris")
    purge(system)
    text = everywhere(system, [first])
    assert "Miso" in text
    assert "Rex" not in text
    assert "Paris" not in text


def test_what_expired_is_in_no_past_moment(system):
    cube = keep(system, "The key is under the mat.", name="key")
    first = now()
    with system.database.write() as session:
        session.execute(
            sa.text("UPDATE cubes SET expires_us = :at WHERE id = :id"),
            {"at": now_us(), "id": cube},
        )
    assert found(system, "key mat", first) == []


# -- for whom -----------------------------------------------------------------------------------------


def test_another_person_sees_nothing_and_permissions_are_those_of_now(system, http):
    keep(system, "Alice has a secret boat.", name="boat")
    shared = keep(system, "The office has a boat.", who=ADMIN, shared=True, name="office")
    first = now()
    change(system, "boat", "Nothing.")
    assert found(system, "boat", first, who=BOB) == ["The office has a boat."]
    system.update(ADMIN, shared, CubePatch(access=Access(readers=["alice"])))
    assert found(system, "boat", first, who=BOB) == []
    assert len(found(system, "boat", first)) == 2
    at_us = round(first.timestamp() * 1e6)
    with pytest.raises(NotFound):
        system.past.get(BOB, shared, at_us)
    assert found(system, "boat", first, who=principal("alice", tenant="other")) == []


def test_personas_are_separate_at_a_past_moment(system):
    keep(system, "The desk is at work.", tags=["persona:work"], name="desk")
    first = now()
    change(system, "desk", "The desk is gone.")
    assert found(system, "desk", first) == []
    at_work = dataclasses.replace(ALICE, persona="work")
    assert found(system, "desk", first, who=at_work) == ["The desk is at work."]


def test_a_past_moment_survives_a_restart(system, config):
    cube = keep(system, "The meeting is in the blue room.")
    first = now()
    change(system, cube, "The meeting is in the green room.")
    system.close()
    again = MemorySystem(config).open()
    assert found(again, "room", first) == ["The meeting is in the blue room."]
    again.close()


def test_versions_of_an_older_schema_are_read_with_the_header_of_now(system):
    cube = keep(system, "The meeting is in the blue room.")
    first = now()
    change(system, cube, "The meeting is in the green room.")
    with system.database.write() as session:
        session.execute(sa.text("UPDATE versions SET header = NULL"))
    assert found(system, "room", first) == ["The meeting is in the blue room."]


def test_a_damaged_version_costs_itself(system, tmp_path):
    cube = keep(system, "The meeting is in the blue room.")
    keep(system, "The other room is red.")
    first = now()
    digest = system.vault.history(ALICE, cube)[0].payload_sha256
    (file,) = (tmp_path / "payloads").rglob(f"{digest}.json")
    file.write_bytes(b"{}")
    assert found(system, "room", first) == ["The other room is red."]


def test_more_items_than_the_limit_are_cut_and_the_reply_says_so(system):
    for number in range(4):
        keep(system, f"Boat {number} is blue.")
    system.past._most_items = 2
    result = search(system, ALICE, now(), "boat", 10)
    assert result.degraded == "as_of"
    assert sorted(each.recalled.item.text for each in result.found) == [
        "Boat 2 is blue.",
        "Boat 3 is blue.",
    ]


def test_a_claim_that_ended_later_held_then(system):
    day = datetime(2026, 5, 1, tzinfo=UTC)
    claim = Claim(subject="alice", attribute="home", value="Paris", sources=["m1"])
    item = Item(type=ItemType.FACT, text="alice lives in Paris", time=day, source="m1", claim=claim)
    new = NewCube(meta=NewMeta(name="claims"), payload=ExplicitPayload(content=[item]))
    cube = system.create(ALICE, [new])[0].meta.id
    first = now()
    ended = item.model_copy(
        update={"claim": claim.model_copy(update={"ends": to_datetime(now_us())})}
    )
    system.update(ALICE, cube, CubePatch(payload=ExplicitPayload(content=[ended])))
    assert found(system, "Where does alice live?", first) == ["alice lives in Paris"]
    assert found(system, "Where does alice live?", now()) == []


def test_a_frozen_cube_is_readable_as_it_was(system):
    cube = keep(system, "The door is blue.")
    first = now()
    freeze(system, cube)
    assert found(system, "door", first) == ["The door is blue."]
