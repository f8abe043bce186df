"""Try it: a message through the server's own chat route, the memory of its reply, the reply without memory."""

from __future__ import annotations

import pytest
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.console import ORIGIN, Browser, FakeChat, console_app, key_of, token_in
from tests.unit.test_console_hostile import SCRIPT, check_inert
from tests.unit.test_console_view import link, opened

ALICE = principal("alice")
MESSAGE = {"message": "Which tea do I like?"}


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def cube(system):
    content = [Item(text="Alice likes oolong tea.")]
    new = NewCube(meta=NewMeta(name="teas"), payload=ExplicitPayload(content=content))
    return system.create(ALICE, [new])[0]


@pytest.fixture
def chat(app, cube):
    items = [{"id": cube.items[0].id, "score": 0.7}]
    used = {"id": cube.meta.id, "name": "teas", "tokens": 12, "items": items}
    return FakeChat(app, {"cubes": [used], "injected_tokens": 41})


def test_a_server_without_a_chat_route_says_so(system, app):
    browser = Browser(app, key_of(system))
    page = browser.get("try", person="alice")
    assert page.status_code == 200
    assert "no chat route" in page.text
    assert "<textarea" not in page.text
    assert browser.post("try", MESSAGE, person="alice").status_code == 404


def test_a_message_goes_through_the_chat_route_and_shows_what_its_reply_used(
    system, app, chat, cube
):
    key = key_of(system, Role.WRITER)
    browser = Browser(app, key)
    assert 'name="remember"' in browser.get("try", person="alice").text
    page = browser.post("try", MESSAGE, person="alice")
    assert page.status_code == 200
    for shown in ("Oolong.", "Alice likes oolong tea.", "61 tokens in the prompt", "41 tokens"):
        assert shown in page.text, shown
    item = f"/memory/item?cube={cube.meta.id}&amp;item={cube.items[0].id}&amp;person=alice"
    assert item in page.text
    assert browser.http.get(item.replace("&amp;", "&")).status_code == 200
    assert "/memory/plan?request=chatcmpl-1&amp;person=alice" in page.text
    assert "Which tea do I like?</textarea>" in page.text
    assert "Without memory" not in page.text
    assert 'class="done"' not in page.text
    ((who, body),) = chat.asked
    assert (who.tenant, who.role) == ("acme", Role.WRITER)
    assert who.key_id == system.keys.authenticate(key).key_id
    assert body["user"] == "alice"
    assert body["messages"] == [{"role": "user", "content": MESSAGE["message"]}]
    assert body["memory"] == {"write": False}


def test_the_same_message_without_memory_stands_beside_it_with_its_cost(system, app, chat):
    browser = Browser(app, key_of(system))
    fields = {**MESSAGE, "compare": "true", "remember": "true"}
    page = browser.post("try", fields, person="alice").text
    for shown in ("Oolong.", "I do not know.", "With memory", "Without memory"):
        assert shown in page, shown
    assert "Memory took 41 tokens of the prompt. The comparison cost 25 tokens" in page
    first, second = (body for _, body in chat.asked)
    assert first["memory"] == {"write": True}
    assert second["memory"] == {"enabled": False}
    assert {**first, "memory": None} == {**second, "memory": None}


def test_a_past_day_asks_the_memory_of_then(system, app, chat):
    Browser(app, key_of(system)).post("try", MESSAGE, person="alice", day="2020-02-03")
    assert chat.asked[0][1]["memory"] == {"write": False, "as_of": "2020-02-03T23:59:59+00:00"}


def test_an_error_of_the_chat_route_is_the_error_of_the_page(system, app, chat):
    browser = Browser(app, key_of(system))
    envelope = {"error": {"message": "the engine is <full>", "type": "x"}}
    chat.failure = JSONResponse(envelope, 503, headers={"retry-after": "7"})
    page = browser.post("try", MESSAGE, person="alice")
    assert (page.status_code, page.headers["retry-after"]) == (503, "7")
    assert "the engine is &lt;full&gt;" in page.text
    assert "Which tea do I like?</textarea>" in page.text
    chat.failure = RuntimeError("the engine died")
    page = browser.post("try", MESSAGE, person="alice")
    assert page.status_code == 500
    assert "refused (500)" in page.text
    chat.failure = None
    assert browser.post("try", {"message": "  "}, person="alice").status_code == 400
    assert len(chat.asked) == 2


def test_a_chat_of_the_console_counts_against_the_limits(tmp_path):
    limits = {"tenants": {"acme": {"concurrent_requests": 1}}}
    system = MemorySystem(make_config(tmp_path / "home", governance={"limits": limits})).open()
    try:
        app = console_app(system)
        chat = FakeChat(app)
        browser = Browser(app, key_of(system))
        page = browser.post("try", MESSAGE, person="alice")  # itself the one request at a time
        assert page.status_code == 429
        assert "refused (429)" in page.text
        assert chat.asked == []
    finally:
        system.close()


def test_a_person_chats_as_themselves_alone_and_only_where_the_link_says_so(system, app, chat):
    headers = {"Authorization": f"Bearer {key_of(system, Role.WRITER)}"}
    backend = TestClient(app, base_url=ORIGIN, headers=headers)
    browser = opened(app, link(backend, scopes=["chat", "memory.read"])["url"])
    page = browser.get("try").text
    assert "/memory/try" in browser.get("person").text
    assert 'name="remember"' not in page
    assert "Oolong." in browser.post("try", MESSAGE).text
    who, body = chat.asked[0]
    assert (who.person, body["user"]) == ("alice", "alice")
    assert browser.post("try", MESSAGE, person="bob").status_code == 403
    reads = opened(app, link(backend)["url"])
    assert "/memory/try" not in reads.get("person").text
    assert reads.get("try").status_code == 403
    assert reads.post("try", MESSAGE).status_code == 403
    assert len(chat.asked) == 1


def test_an_item_that_the_person_may_not_read_shows_no_text(system, app, chat):
    page = Browser(app, key_of(system, Role.WRITER)).post("try", MESSAGE, person="bob").text
    assert "oolong tea" not in page
    assert "not readable now" in page


def test_a_server_without_keys_chats_for_its_own_machine(system, app, chat):
    local = TestClient(app, base_url="https://localhost", client=("127.0.0.1", 1))
    page = local.get("/memory/sign-in")
    local.post("/memory/sign-in", data={"form_token": token_in(page.text)})
    form = {**MESSAGE, "form_token": token_in(local.get("/memory/try").text)}
    page = local.post("/memory/try", data=form)
    assert page.status_code == 200
    assert chat.asked[0][0].tenant == "local"
    assert "user" not in chat.asked[0][1]


def test_a_form_without_its_token_asks_nothing(system, app, chat):
    browser = Browser(app, key_of(system))
    assert browser.http.post("/memory/try?person=alice", data=MESSAGE).status_code == 403
    assert chat.asked == []


def test_a_hostile_reply_is_inert(system, app, chat):
    chat.replies = [SCRIPT + "\x00\u202e", SCRIPT]
    chat.memory["cubes"] = [{"id": SCRIPT, "name": SCRIPT, "tokens": 1, "items": []}]
    fields = {"message": SCRIPT, "compare": "true"}
    page = Browser(app, key_of(system)).post("try", fields, person="alice")
    assert page.status_code == 200
    check_inert(page.text)
