"""A person's own view: a link with a short-lived token, for one person's memory alone."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.console import ORIGIN, Browser, console_app, key_of, store_plan, token_in

ADMIN = principal("", role=Role.ADMIN)


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, governance={"key_cache_seconds": 0})


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def backend(system, app):
    """The application's backend, with its writer key."""
    key = key_of(system, Role.WRITER)
    return TestClient(app, base_url=ORIGIN, headers={"Authorization": f"Bearer {key}"})


def link(backend, person="alice", **view):
    made = backend.post(f"/v1/memory/people/{person}/view", json=view)
    assert made.status_code == 201, made.text
    return made.json()


def opened(app, url):
    """A browser that has opened a link and pressed its button."""
    browser = Browser(app)
    page = browser.http.get(url)
    assert page.status_code == 200
    key = re.search(r'name="key" value="([^"]+)"', page.text)[1]
    form = {"key": key, "form_token": token_in(page.text)}
    reply = browser.http.post("/memory/sign-in", data=form)
    assert reply.status_code == 303
    assert reply.headers["location"] == "/memory"
    return browser


def tell(backend, person, said):
    made = backend.post(
        "/v1/memory/feedback", json={"text": said}, headers={"X-Memos-User": person}
    )
    assert made.status_code == 200


def test_a_link_opens_its_persons_memory_to_see_and_edit(system, app, backend):
    tell(backend, "alice", "My cat is called Miso.")
    made = link(backend)
    assert made["url"].startswith(f"{ORIGIN}/memory/view?token=pt-memos-")
    assert parse_qs(urlsplit(made["url"]).query)["token"] == [made["token"]]
    browser = opened(app, made["url"])
    start = browser.get("")
    assert (start.status_code, start.headers["location"]) == (303, "/memory/person")
    page = browser.get("person").text
    assert "Miso" in page
    assert "own view" in page
    for hidden in ("/memory/people", "/memory/audit", "/memory/keys"):
        assert hidden not in page
    assert browser.post("note", {"text": "My dog is called Rex."}).status_code == 303
    assert "Rex" in browser.get("person/facts").text
    fields = browser.hidden("forget", subject="my cat")
    assert browser.post("forget", fields).status_code == 200
    assert "Miso" not in browser.get("person/facts").text
    mine = [each for each in system.audit.read(ADMIN) if each["detail"].get("token")]
    assert {each["person"] for each in mine} == {"alice"}
    assert "token.create" in [each["action"] for each in system.audit.read(ADMIN)]


def test_a_person_sees_nothing_of_others_and_no_page_of_an_admin(system, app, backend):
    tell(backend, "bob", "My cat is called Miso.")
    store_plan(system, "chatcmpl-bob", "bob")
    store_plan(system, "chatcmpl-alice", "alice")
    cube = backend.get("/v1/memory/cubes", headers={"X-Memos-User": "bob"}).json()["cubes"][0]
    browser = opened(app, link(backend)["url"])
    for path in ("person", "person/facts", "person/cubes", "plans", "cost", "access/erase"):
        assert browser.get(path, person="bob").status_code == 403, path
        own = browser.get(path)
        assert own.status_code == 200
        assert "Miso" not in own.text
        assert "chatcmpl-bob" not in own.text
    assert "chatcmpl-alice" in browser.get("plans").text
    for path in ("people", "keys", "policy", "audit", "erasures", "erasure", "groups", "access"):
        assert browser.get(path, erasure="x").status_code == 403, path
    assert browser.get("cube", cube=cube["id"]).status_code == 404
    assert browser.get("plan", request="chatcmpl-bob").status_code == 404
    for path, fields in (
        ("note", {"text": "I live in Rome."}),
        ("access/link", {}),
        ("access/erase", {"name": "bob"}),
        ("forget", {"what": "text", "subject": "my cat", "seen": "x"}),
    ):
        assert browser.post(path, fields, person="bob").status_code == 403, path
    assert browser.post("access/link", {}).status_code == 403
    assert browser.post("access/erase", {"name": "bob"}).status_code == 400


def test_a_link_that_only_reads_changes_nothing(system, app, backend):
    tell(backend, "alice", "My cat is called Miso.")
    browser = opened(app, link(backend, scopes=["memory.read"])["url"])
    page = browser.get("person").text
    assert "Miso" in page
    assert "Tell memory" not in page
    assert "Forget" not in page
    for path, fields in (
        ("note", {"text": "I live in Rome."}),
        ("forget", {"what": "text", "subject": "my cat", "seen": "x"}),
        ("access/erase", {"name": "alice"}),
        ("restore", {"moment": "2026-01-01T00:00:00+00:00"}),
    ):
        assert browser.post(path, fields).status_code == 403, path
    writes = opened(app, link(backend, scopes=["chat"])["url"])
    assert writes.get("person").status_code == 403
    assert writes.get("person/cubes").status_code == 403
    assert writes.get("plans").status_code == 403
    assert writes.get("cost").status_code == 403


def test_a_person_erases_their_memory_and_the_view_ends(system, app, backend):
    tell(backend, "alice", "My cat is called Miso.")
    browser = opened(app, link(backend)["url"])
    done = browser.post("access/erase", {"name": "alice"})
    assert done.status_code == 200
    assert "Erased" in done.text
    assert browser.get("person").status_code == 303  # the token went with the person


def test_a_view_ends_with_its_token_and_with_the_key_that_made_it(system, app, backend):
    made = link(backend)
    browser = opened(app, made["url"])
    backend.delete(f"/v1/memory/people/alice/tokens/{made['id']}")
    assert browser.get("person").status_code == 303
    again = Browser(app).http.get(made["url"])
    form = {"key": made["token"], "form_token": token_in(again.text)}
    late = Browser(app)
    late.http.get(made["url"])
    assert late.http.post("/memory/sign-in", data=form).status_code == 403  # another form's
    late = late.sign_in(made["token"])
    assert late.status_code == 401
    assert "The link has ended" in late.text

    browser = opened(app, link(backend)["url"])
    key = next(each for each in system.keys.list("acme") if each.role is Role.WRITER)
    system.keys.revoke(key.id)
    assert browser.get("person").status_code == 303


def test_a_session_of_a_view_lasts_no_longer_than_its_token(system, backend):
    token = link(backend, ttl_seconds=60)["token"]
    principal_of = system.keys.authenticate(token)
    session, _ = system.keys.sessions.begin(principal_of, token, 28_800)
    assert session.expires_us == principal_of.expires_us


def test_opening_a_link_signs_in_only_with_its_button(app, backend):
    browser = Browser(app)
    page = browser.http.get(link(backend)["url"])
    assert "memos_console" not in browser.http.cookies
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "The link has ended" in browser.get("view").text


def test_readers_tokens_and_limited_keys_make_no_link(system, app, backend):
    from memos_vllm.governance.principal import Scope

    reader = key_of(system, Role.READER)
    limited = system.keys.create("acme", Role.WRITER, scopes=[Scope.READ])[1]
    token = link(backend)["token"]
    for credential in (reader, limited, token):
        headers = {"Authorization": f"Bearer {credential}"}
        made = TestClient(app).post("/v1/memory/people/alice/view", json={}, headers=headers)
        assert made.status_code == 403
    assert (
        backend.post("/v1/memory/people/alice/view", json={"scopes": ["metrics"]}).status_code
        == 400
    )
    assert (
        backend.post("/v1/memory/people/alice/view", json={"ttl_seconds": 10**6}).status_code == 400
    )


def test_names_with_slashes_get_links_and_the_address_is_that_of_the_configuration(tmp_path):
    console = {"url": "https://memory.example.com/"}
    system = MemorySystem(make_config(tmp_path / "home", console=console)).open()
    try:
        headers = {"Authorization": f"Bearer {key_of(system, Role.WRITER)}"}
        backend = TestClient(console_app(system), headers=headers)
        made = link(backend, "u%2F1/%C3%A5")
        assert made["person"] == "u/1/å"
        assert made["url"].startswith("https://memory.example.com/memory/view?token=")
    finally:
        system.close()


def test_links_and_questions_stay_out_of_the_access_log():
    import logging

    from memos_vllm.api.access_log import PrivatePaths

    for path, shown in (
        ("/memory/view?token=pt-memos-x", "/memory/view…"),
        ("/memory/person/search?person=ann&q=x", "/memory/person/search…"),
        ("/memory?person=ann", "/memory…"),
        ("/v1/memory/people/ann/view", "/v1/memory/people/…"),
        ("/memory/static/console.css", "/memory/static/console.css"),
    ):
        record = logging.LogRecord("uvicorn.access", 20, "", 0, "%s", (path,), None)
        PrivatePaths().filter(record)
        assert record.args == (shown,)
