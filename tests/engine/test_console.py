"""The console on the real server: sign in with a key, ask, see the reply and the memory that it used."""

from __future__ import annotations

import re

import pytest

from tests.console import token_in
from tests.engine.test_messages import fact

TEXT = "The lighthouse of Ottilie is painted yellow."
ASKED = "What colour is my lighthouse?"


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
