"""Turns of a chat: secrets are left out before a turn is stored; "yesterday" is the person's."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from memos_vllm import zones
from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import to_us
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.remember import Rememberer
from memos_vllm.options import MemoryOptions, read_options, with_zone
from memos_vllm.pipeline import Pipeline
from memos_vllm.plaintext.reader.turns import session_name, turn_body
from memos_vllm.ports import Chat
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, make_config
from tests.unit.conftest import ALICE
from tests.unit.test_pipeline import FakeExchange

CARD = "4111 1111 1111 1111"


def finished(system, text, reply="Ok.", **options):
    """A chat's plan, after its turn has become memory."""
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    pipeline = Pipeline(system, rememberer, BackgroundTasks())
    chat = Chat(ALICE, MemoryOptions(**options), [{"role": "user", "content": text}], "demo")

    class Exchange(FakeExchange):
        async def deliver(self, chat, answered, finish):
            await finish("r-1", reply)
            return answered

    async def run():
        await pipeline.chat(chat, Exchange())
        await pipeline.tasks.drain()

    asyncio.run(run())
    stored = [system.turns.get(turn).body for turn in system.turns.waiting()]
    for turn in system.turns.waiting():
        rememberer.remember(turn)
    return chat.plan, stored


def texts(system):
    headers, _ = system.views.page(ALICE, CubeFilter(person=ALICE.person))
    return [item.text for each in headers for item in system.vault.get(ALICE, each.id).items]


def test_a_secret_is_in_no_stored_turn_no_claim_and_no_search_and_is_counted(system):
    said = f"My card is {CARD}. I live in Paris."
    plan, stored = finished(system, said, reply=f"Noted, {CARD}.")
    assert plan.redacted == 2
    assert CARD not in str(stored)
    assert "My card is [card number removed]. I live in Paris." in texts(system)
    assert not any("4111" in text for text in texts(system))
    assert [each.item.claim.value for each in system.knowledge.claims(ALICE)] == ["Paris"]
    assert system.plans.get(ALICE, "r-1")["redacted"] == 2
    assert "4111" not in str(system.plans.get(ALICE, "r-1"))


def test_secrets_are_kept_where_the_configuration_says_so(tmp_path):
    system = MemorySystem(make_config(tmp_path, remember={"secrets": "keep"})).open()
    plan, _ = finished(system, f"My card is {CARD}.")
    assert plan.redacted == 0
    assert f"My card is {CARD}." in texts(system)
    system.close()


def test_an_order_leaves_memory_before_the_prompt_is_made_and_is_told_in_the_plan(system, chat):
    chat("I live in Paris.")
    plan, _ = finished(system, "Forget that I live in Paris.")
    assert plan.forgot is not None
    assert plan.forgot.count >= 2
    assert plan.used == []
    assert not plan.written
    assert "forget" in plan.steps_ms
    assert texts(system) == []
    assert "Paris" not in str(system.plans.get(ALICE, "r-1"))


def test_what_a_message_says_beside_an_order_is_written(system, chat):
    chat("I live in Paris.")
    plan, _ = finished(system, "Forget that I live in Paris. My brother plays chess.")
    assert plan.written
    assert set(texts(system)) == {"My brother plays chess."}


def test_a_turn_that_may_not_be_written_forgets_nothing(system, chat):
    chat("I live in Paris.")
    plan, _ = finished(system, "Forget that I live in Paris.", write=False)
    assert plan.forgot is None
    assert "I live in Paris." in texts(system)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles", "UTC", None])
def test_yesterday_is_the_day_before_in_the_zone_of_the_person(system, chat, zone):
    finished(system, "I visited the museum yesterday.", timezone=zone)
    (claim,) = [each.item.claim for each in system.knowledge.claims(ALICE)]
    now = datetime.now(zones.zone(zone or "UTC"))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert claim.ends == today
    assert claim.ends - claim.begins == timedelta(days=1)
    assert claim.begins.utcoffset() == (today - timedelta(days=1)).utcoffset(), "with its offset"


def test_the_zone_of_the_body_goes_before_the_header_and_that_before_the_configuration(tmp_path):
    assert (
        with_zone(read_options({"timezone": "Asia/Tokyo"}), "Europe/Paris").timezone == "Asia/Tokyo"
    )
    assert with_zone(read_options({}), "Europe/Paris").timezone == "Europe/Paris"
    assert with_zone(read_options({}), None).timezone is None
    system = MemorySystem(make_config(tmp_path, reader={"timezone": "Asia/Tokyo"})).open()
    _, stored = finished(system, "Hello there.")
    assert [body["timezone"] for body in stored] == ["Asia/Tokyo"]
    system.close()


@pytest.mark.parametrize("name", ["Mars/Phobos", "../etc/passwd", "Europe", "", "x" * 65])
def test_a_zone_that_does_not_exist_is_a_400(name):
    with pytest.raises(BadRequest) as caught:
        read_options({"timezone": name})
    assert caught.value.param == "memory.timezone"
    if name:
        with pytest.raises(BadRequest, match="X-Memos-Timezone"):
            with_zone(read_options({}), name)


def test_without_a_session_the_day_is_the_persons():
    at = to_us(datetime.fromisoformat("2026-03-01T22:00:00+00:00"))
    body = turn_body([{"role": "user", "content": "Hi"}], "Ok", model="m", request_id="r", at_us=at)
    assert session_name(None, body) == "2026-03-01"
    assert session_name(None, {**body, "timezone": "Asia/Tokyo"}) == "2026-03-02"


def test_feedback_reads_times_in_the_zone_and_refuses_a_wrong_one(system):
    http = TestClient(create_app(system))
    key = system.keys.create("acme", Role.WRITER)[1]
    http.headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    body = {"text": "I visited the museum yesterday."}
    reply = http.post("/v1/memory/feedback", json=body, headers={"X-Memos-Timezone": "Asia/Tokyo"})
    assert reply.status_code == 200, reply.text
    (claim,) = [each.item.claim for each in system.knowledge.claims(ALICE)]
    assert claim.begins.utcoffset() == timedelta(hours=9)
    wrong = http.post("/v1/memory/feedback", json=body, headers={"X-Memos-Timezone": "Mars"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "x-memos-timezone"
    wrong = http.post("/v1/memory/feedback", json={**body, "timezone": "Mars"})
    assert wrong.status_code == 400
