"""The served model reads turns, behind the conversation, sits its exam, and rewrites questions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.harness import MODEL, Server, wait_for
from tests.engine.test_claims import SECONDS, chat, explained, until_known


@pytest.fixture(scope="module")
def reading(homes) -> Iterator[Server]:
    """A server whose model reads each turn."""
    folder = homes / "reading"
    folder.mkdir()
    fine = {
        "MEMOS__READER__MODE": "fine",
        "MEMOS__READER__REWRITE": "true",
        "MEMOS__READER__REWRITE_SECONDS": "20",
    }
    with Server(folder, home=folder / "home", environment=fine).running() as running:
        yield running


@pytest.mark.timeout(600)
def test_the_served_model_extracts_claims_in_the_background_and_the_turn_stays(reading: Server):
    http = reading.http(None, "nils")
    text = "So Miso, the cat that we have, broke the blue vase again on Friday."
    chat(http, text)

    def turns() -> list[str]:
        cubes = http.get("/v1/memory/cubes", params={"name_prefix": "chat-"}).json()["cubes"]
        held = [http.get(f"/v1/memory/cubes/{cube['id']}").json() for cube in cubes]
        return [item["text"] for cube in held for item in cube["payload"]["content"]]

    wait_for(lambda: text in turns(), "the turn as memory", SECONDS)
    chat(http, "What is two plus two?", write=False)  # answered while the model reads

    def read() -> bool:
        page = http.get("/metrics").text
        counts = re.findall(r"memos_extractions_total\{outcome=\"\w+\"\} ([\d.]+)", page)
        return sum(map(float, counts)) >= 1

    wait_for(read, "the extraction", 300)
    assert text in turns()
    for claim in http.get("/v1/memory/claims").json()["claims"]:
        # A small model may write anything: each word of a stored claim is from the turn.
        words = set(re.findall(r"\w{4,}", claim["item"]["claim"]["value"].casefold()))
        assert words <= set(re.findall(r"\w{4,}", text.casefold())), claim


def counted(http: Any, name: str) -> dict[str, float]:
    """A counter of the memory system by its labels."""
    page = http.get("/metrics").text
    found = re.findall(rf"^{name}_total\{{(.*?)\}} ([\d.]+)", page, re.M)
    return {labels: float(value) for labels, value in found}


@pytest.mark.timeout(600)
def test_a_turn_is_read_behind_the_conversation_that_was_served(reading: Server):
    http = reading.http(None, "petra")
    before = counted(http, "memos_writer_requests"), counted(http, "memos_writer_tokens")
    messages = [
        {"role": "user", "content": "Tell me about gardens. " * 30},
        {"role": "assistant", "content": "A garden is a piece of land with plants. " * 10},
        {"role": "user", "content": "My tortoise Zeno sleeps in the greenhouse."},
    ]
    body = {"model": MODEL, "messages": messages, "max_tokens": 24, "temperature": 0}
    http.post("/v1/chat/completions", json=body).raise_for_status()
    continued = 'form="continued"'

    def added(name: str, labels: str, then: dict[str, float]) -> float:
        return counted(http, name).get(labels, 0.0) - then.get(labels, 0.0)

    wait_for(lambda: added("memos_writer_requests", continued, before[0]) >= 1, "reading", 300)
    cached = added("memos_writer_tokens", f'{continued},state="cached"', before[1])
    computed = added("memos_writer_tokens", f'{continued},state="computed"', before[1])
    assert cached >= 256, "the conversation is in the prefix cache under the person's salt"
    assert computed < cached


@pytest.mark.timeout(900)
def test_a_small_model_fails_its_exam_and_rules_read(homes):
    folder = homes / "exam"
    folder.mkdir()
    auto = {"MEMOS__READER__MODE": "auto"}
    server = Server(folder, home=folder / "home", environment=auto)
    with server.running() as running:
        http = running.http(None, "quinn")
        assert http.get("/v1/memory/reader").json()["reads"] == "rules"
        chat(http, "My cat is called Miso.")  # answered beside the exam
        status = wait_for(
            lambda: (found := http.get("/v1/memory/reader").json())["marks"] and found,
            "the exam",
            600,
        )
        assert (status["reads"], status["forms"]) == ("rules", []), status
        assert "failed its exam" in status["reason"]
        until_known(http, cat_name=("Miso", True))
    with server.running() as running:
        again = running.http(None, "quinn").get("/v1/memory/reader").json()
        assert again["marks"] == status["marks"], "the exam is not sat again"


@pytest.mark.timeout(600)
def test_the_served_model_rewrites_a_question_before_search(reading: Server):
    http = reading.http(None, "olga")
    chat(http, "My cat is called Miso.")
    until_known(http, cat_name=("Miso", True))
    messages = [
        {"role": "user", "content": "Tell me about my cat."},
        {"role": "assistant", "content": "You have a cat."},
        {"role": "user", "content": "And what is it called?"},
    ]
    memory = {"write": False, "required": True}
    body = {"model": MODEL, "messages": messages, "max_tokens": 4, "memory": memory}
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    plan = explained(http, reply.json()["id"])
    assert plan["steps_ms"]["rewrite"] > 0
    assert "required" not in plan["degraded"]
    first = http.post("/v1/chat/completions", json=body | {"messages": messages[2:]})
    plan = explained(http, first.json()["id"])
    assert plan["steps_ms"]["rewrite"] < 100, "without history the model is not asked"
