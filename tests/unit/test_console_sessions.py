"""Sign-in of the console: cookies, form tokens, headers of security, and how a session ends."""

from __future__ import annotations

import base64
import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from memos_vllm.api.access import Need, need_of
from memos_vllm.console.visit import ConsoleRoute
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Unauthorized
from memos_vllm.governance import sessions
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.console import ORIGIN, Browser, console_app, key_of, token_in

ADMIN = principal("", role=Role.ADMIN)


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, governance={"key_cache_seconds": 0})


def cookies_set(reply):
    return {each.partition("=")[0]: each for each in reply.headers.get_list("set-cookie")}


def test_a_session_cookie_is_http_only_strict_secure_and_holds_no_readable_key(system, app):
    key = key_of(system)
    browser = Browser(app)
    cookie = cookies_set(browser.sign_in(key))["memos_console"]
    for attribute in ("HttpOnly", "SameSite=strict", "Secure", "Path=/memory", "Max-Age=28800"):
        assert attribute in cookie
    value = browser.http.cookies["memos_console"]
    raw = base64.urlsafe_b64decode(value + "==")
    secret = key.rpartition("-")[2]
    for held in (value.encode(), raw):
        assert key.encode() not in held
        assert secret.encode() not in held
    page = browser.get("")
    assert page.status_code == 200
    assert key not in page.text


def test_without_a_session_every_page_leads_to_the_sign_in(system, app):
    key_of(system)
    browser = Browser(app)
    for path in ("", "people", "person", "keys", "audit", "nowhere", "static/../audit"):
        reply = browser.get(path)
        assert (reply.status_code, reply.headers["location"]) == (303, "/memory/sign-in"), path
        assert reply.headers["cache-control"] == "no-store"
    reply = browser.http.get("/memory/people", headers={"HX-Request": "true"})
    assert (reply.status_code, reply.headers["hx-redirect"]) == (401, "/memory/sign-in")


def test_a_key_in_a_header_opens_no_page_and_a_cookie_no_route_of_the_api(system, app):
    key = key_of(system)
    headers = {"Authorization": f"Bearer {key}"}
    stranger = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    assert stranger.get("/memory/people", headers=headers).status_code == 303
    browser = Browser(app, key)
    assert browser.http.get("/v1/memory/cubes").status_code == 401


def test_every_page_has_a_strict_policy_and_is_not_stored(system, app):
    browser = Browser(app, key_of(system))
    for path in ("", "people", "person", "nowhere", "sign-in", "keys"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store", path
    for name in ("console.css", "htmx.min.js", "icon.svg"):
        reply = browser.get(f"static/{name}")
        assert reply.status_code == 200
        assert "immutable" in reply.headers["cache-control"]
    assert browser.get("static/nothing.js").status_code == 404


def test_no_template_has_an_inline_script_style_or_handler(app):
    templates = app.state.memos_console.templates
    for name in templates.list_templates():
        source = templates.loader.get_source(templates, name)[0]
        assert not re.search(r"<style|\sstyle=|\son\w+=|hx-on|<script(?! src)", source), name
        assert "|safe" not in source, name


def acting(app):
    """Paths of the routes of the console that take a POST."""
    found = [
        route.path
        for route in app.routes
        if isinstance(route, ConsoleRoute) and "POST" in route.methods
    ]
    assert len(found) >= 12
    return found


def test_no_form_acts_without_the_token_of_its_session(system, app):
    key = key_of(system)
    browser, other = Browser(app, key), Browser(app, key)
    stolen = token_in(other.get("").text)
    for path in acting(app):
        path = path.replace("{rest:path}", "nowhere")
        for fields in ({}, {"form_token": ""}, {"form_token": "0" * 64}, {"form_token": stolen}):
            reply = browser.http.post(path, params={"person": "alice"}, data=fields)
            assert reply.status_code == 403, (path, fields)
        good = {"form_token": token_in(browser.get("").text)}
        cross = browser.http.post(path, data=good, headers={"Sec-Fetch-Site": "cross-site"})
        assert cross.status_code == 403
        assert browser.http.post(path, json=good).status_code == 400
    assert browser.get("").status_code == 200  # it was not signed out


def test_pages_of_other_origins_read_nothing_even_with_the_cookie(system, app):
    browser = Browser(app, key_of(system))
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}
        assert browser.http.get("/memory/people", headers=headers).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert browser.http.get("/memory/people", headers=link).status_code == 200
    assert browser.http.get("/memory/").headers["location"] == "/memory"


def test_a_wrong_key_is_refused_and_told_nothing(system, app):
    key = key_of(system)
    for wrong in ("", "x", key[:-1] + ("a" if key[-1] != "a" else "b"), "pt-memos-x.y.z", "ø" * 50):
        browser = Browser(app)
        reply = browser.sign_in(wrong)
        assert reply.status_code == 401
        assert "memos_console" not in cookies_set(reply)
    assert Browser(app).sign_in("k" * 5000).status_code == 400


def test_a_revoked_key_ends_its_sessions(system, app):
    record, key = system.keys.create("acme", Role.ADMIN)
    browser = Browser(app, key)
    assert browser.get("people").status_code == 200
    system.keys.revoke(record.id)
    assert browser.get("people").status_code == 303


def test_a_session_has_the_role_that_its_key_has_now(system, app):
    record, key = system.keys.create("acme", Role.ADMIN)
    browser = Browser(app, key)
    with system.database.write() as session:
        session.execute(
            text("UPDATE api_keys SET role = 'reader' WHERE id = :id"), {"id": record.id}
        )
    assert browser.get("people").status_code == 403
    assert browser.get("audit").status_code == 403
    assert browser.post("note", {"text": "My cat is Miso."}, person="alice").status_code == 403


def test_a_sign_out_ends_copies_of_the_cookie_on_every_server(system, app):
    browser = Browser(app, key_of(system))
    copy = browser.http.cookies["memos_console"]
    reply = browser.post("sign-out", {})
    assert (reply.status_code, reply.headers["location"]) == (303, "/memory/sign-in")
    assert "Max-Age=0" in cookies_set(reply)["memos_console"]
    for each in (app, console_app(system)):
        thief = TestClient(
            each, base_url=ORIGIN, follow_redirects=False, cookies={"memos_console": copy}
        )
        assert thief.get("/memory").status_code == 303


def test_ended_sessions_are_kept_only_until_their_time(system):
    store = system.keys.sessions
    ended = text("SELECT count(*) FROM settings WHERE key LIKE 'console_ended:%'")
    for _ in range(2):
        store.end(ADMIN, store.begin(ADMIN, "k", 1000)[0])
    with system.database.write() as session:
        assert session.execute(ended).scalar() == 2
        over = f"{now_us() - 1:020d}"
        session.execute(
            text("UPDATE settings SET value = :over WHERE key LIKE 'console_ended:%'"),
            {"over": over},
        )
    store.end(ADMIN, store.begin(ADMIN, "k", 1000)[0])
    with system.database.read() as session:
        assert session.execute(ended).scalar() == 1


def test_sign_ins_are_in_the_audit_log(system, app):
    browser = Browser(app, key_of(system))
    browser.post("sign-out", {})
    actions = [each["action"] for each in system.audit.read(ADMIN)]
    assert actions == ["key.create", "console.sign_in", "console.sign_out"]


@pytest.mark.parametrize("change", ["flip", "cut", "other secret", "over", "text", "huge"])
def test_a_changed_or_expired_cookie_opens_nothing(change):
    secret, later = b"s" * 32, now_us() + 10_000_000
    cookie = sessions.seal(secret, sessions.Session("a" * 32, "key", later))
    assert sessions.opened([b"o" * 32, secret], cookie, now_us()).credential == "key"
    at, secrets_now = now_us(), [secret]
    match change:
        case "flip":
            cookie = cookie[:40] + ("A" if cookie[40] != "A" else "B") + cookie[41:]
        case "cut":
            cookie = cookie[:10]
        case "other secret":
            secrets_now = [b"x" * 32]
        case "over":
            at = later
        case "text":
            cookie = "ø not base64 \u2028"
        case "huge":
            cookie *= 100
    with pytest.raises(Unauthorized):
        sessions.opened(secrets_now, cookie, at)


def test_a_rotated_secret_keeps_sessions(system, app):
    browser = Browser(app, key_of(system))
    system.keys.secrets.rotate("person_tokens")
    assert browser.get("").status_code == 200


def test_without_keys_the_console_opens_to_this_machine_only(system, app):
    def visitor(host, base="http://127.0.0.1:8000", cookie=None):
        cookies = {"memos_console": cookie} if cookie else None
        return TestClient(
            app, base_url=base, client=(host, 1), follow_redirects=False, cookies=cookies
        )

    for remote in (visitor("10.0.0.9"), visitor("127.0.0.1", "http://evil.example")):
        assert remote.get("/memory/sign-in").status_code == 403
        assert remote.get("/memory").status_code == 303
    local = visitor("127.0.0.1", "https://localhost")
    page = local.get("/memory/sign-in")
    assert "this machine only" in page.text
    done = local.post("/memory/sign-in", data={"form_token": token_in(page.text)})
    assert done.status_code == 303
    assert local.get("/memory/people").status_code == 200
    copy = local.cookies["memos_console"]
    assert visitor("10.0.0.9", cookie=copy).get("/memory").status_code == 403
    key_of(system)  # from now on every session needs a key
    assert visitor("127.0.0.1", "https://localhost", copy).get("/memory").status_code == 303


def test_pages_count_among_the_requests_of_their_tenant(tmp_path):
    limits = {"limits": {"requests_per_minute": 3}}
    system = MemorySystem(make_config(tmp_path / "limited", governance=limits)).open()
    try:
        browser = Browser(console_app(system), key_of(system))
        statuses = [browser.get("keys").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        other = Browser(console_app(system), key_of(system, tenant="rival"))
        assert other.get("keys").status_code == 200
    finally:
        system.close()


def test_a_switched_off_console_has_no_page(tmp_path):
    system = MemorySystem(make_config(tmp_path / "off", console={"enabled": False})).open()
    try:
        key = key_of(system)
        app = console_app(system)
        http = TestClient(app, base_url=ORIGIN, headers={"Authorization": f"Bearer {key}"})
        assert http.get("/memory/sign-in").status_code == 404
        assert http.get("/memory").status_code == 403
        made = http.post("/v1/memory/people/alice/view", json={})
        assert made.status_code == 501
    finally:
        system.close()


def test_only_the_pages_in_front_of_the_sign_in_are_open():
    for path in ("/memory/sign-in", "/memory/view", "/memory/static/console.css"):
        assert need_of("GET", path, ()) is Need.OPEN
    for path in (
        *("/memory", "/memory/", "/memory/sign-in/x", "/memory/static/../keys", "/memory/sign-out"),
        *("/memory/static/", "/memory/view/../audit", "/memory//sign-in"),
    ):
        assert need_of("POST", path, ()) is Need.CONSOLE, path
    assert need_of("GET", "/memoryx", ()) is Need.OPERATOR
    assert need_of("GET", "/memory/keys", ("/memory/keys",)) is Need.CONSOLE
