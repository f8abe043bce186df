"""The console on the real server: sign in with a key, ask, see the reply and the memory that it used."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time

import pytest

from memos_vllm.console.attribution import THRESHOLD, attribute
from memos_vllm.console.chat import Chats, Reply
from tests.console import token_in
from tests.engine.test_messages import fact

TEXT = "The lighthouse of Ottilie is painted yellow."
ASKED = "What colour is my lighthouse?"


def chats_of(server, key, person):
    """The console's chats, over HTTP in place of in process."""

    class OverHttp(Chats):
        async def _post(self, messages, memory, **fields):
            body = {"messages": messages, "temperature": 0, "memory": memory, **fields}
            began = time.perf_counter()
            with server.http(key, person) as http:
                answer = http.post("/v1/chat/completions", json=body)
            return answer, (time.perf_counter() - began) * 1000

    return OverHttp(None, "authorization", key, person)


@pytest.fixture
def console(server, keys):
    """A client with the session of a writer's key; its cookies are sent over plain http, too."""
    with server.http() as http:
        page = http.get("/memory/sign-in")
        form = {"key": keys.acme, "form_token": token_in(page.text)}
        reply = http.post("/memory/sign-in", data=form, headers=_cookies(page))
        assert reply.status_code == 303
        http.headers.update(_cookies(reply))
        yield http


def _cookies(reply):
    given = [each.partition(";")[0] for each in reply.headers.get_list("set-cookie")]
    return {"cookie": "; ".join(each for each in given if not each.endswith("="))}


def send(console, **fields):
    at = {"person": "ottilie"}
    token = token_in(console.get("/memory/try", params=at).text)
    form = {"message": ASKED, "form_token": token, **fields}
    return console.post("/memory/try", params=at, data=form)


def test_a_message_is_answered_with_memory_and_beside_it_without(server, keys, console):
    cube = fact(server, keys.acme, "ottilie", TEXT, "lighthouse")
    page = send(console, compare="true")
    assert page.status_code == 200, page.text
    assert "With memory" in page.text
    assert "Without memory" in page.text
    assert TEXT in page.text
    assert f"/memory/item?cube={cube}" in page.text
    assert "The turn is remembered" not in page.text
    with_memory, without = map(int, re.findall(r"(\d+) tokens in the prompt", page.text))
    assert with_memory > without
    plan = re.search(r'href="(/memory/plan\?[^"]+)"', page.text)
    why = console.get(plan[1].replace("&amp;", "&"))
    assert why.status_code == 200
    assert "Memory for the question: 1 item" in why.text
    assert TEXT in why.text


def test_a_message_is_remembered_where_the_box_says_so(console):
    assert "The turn is remembered" in send(console, remember="true").text


def test_an_error_of_the_engine_is_the_error_of_the_page(console):
    page = send(console, message="far too long " * 1500)
    assert page.status_code == 400
    assert "is refused (400)" in page.text


def test_a_sentence_rests_on_the_item_that_it_repeats_and_another_sentence_does_not(server, keys):
    facts = {
        name: fact(server, keys.acme, "wenzel", text, name)
        for name, text in (
            ("boat", "Wenzel's boat is called Zephyrine."),
            ("sail", "Wenzel's boat has a red sail."),
        )
    }
    asked = "What is my boat called?"
    chats = chats_of(server, keys.acme, "wenzel")
    reply = asyncio.run(chats.ask(asked, {"write": False}))
    assert isinstance(reply, Reply), reply
    items = {cube["id"]: cube["items"][0]["id"] for cube in reply.memory["cubes"]}
    assert set(items) == set(facts.values())
    said = dataclasses.replace(reply, text="Your boat is called Zephyrine.\n\nHave a nice day!")
    found = asyncio.run(attribute(chats, asked, said, {"write": False}))
    boat, sail = (found.items.index(items[facts[name]]) for name in ("boat", "sail"))
    repeats, polite = found.sentences
    assert (repeats.text, polite.text) == ("Your boat is called Zephyrine.", "Have a nice day!")
    assert repeats.rests_on[0] == boat + 1
    assert repeats.drops[boat] > THRESHOLD + repeats.drops[sail]
    assert repeats.drops[boat] > 4 * abs(polite.drops[boat])
    assert polite.drops[boat] < THRESHOLD
    assert (found.requests, found.further, found.cached_tokens) == (3, 0, 0)
    assert found.prompt_tokens > 3 * repeats.tokens


def test_the_page_shows_what_each_sentence_of_the_reply_rests_on(server, keys, console):
    fact(server, keys.acme, "ottilie", "The lighthouse of Ottilie stands on a cliff.", "cliff")
    page = send(console, attribution="true")
    assert page.status_code == 200, page.text
    assert "Drop in nats per token" in page.text, page.text
    assert re.search(r'<td class="n">(<strong>)?[+-]\d+\.\d\d', page.text)
    assert "0 of them from cache" in page.text
    assert int(re.search(r"Cost: (\d) requests", page.text)[1]) >= 2
