"""An admin makes and revokes keys and sets the policy in the console; other sessions do not."""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Unauthorized
from memos_vllm.governance.principal import Role, Scope
from tests.conftest import principal
from tests.console import ORIGIN, Browser, console_app, key_of, token_in
from tests.unit.test_console_hostile import SCRIPT, check_inert
from tests.unit.test_console_view import link, opened

ADMIN = principal("", role=Role.ADMIN)
NEW = {"role": "writer", "label": "the app", "days": "30"}
DAY_US = 86_400_000_000
FORMS = (
    ("keys/create", NEW),
    ("keys/revoke", {"key": "key_x"}),
    ("policy", {"policy": "{}", "number": "0"}),
)


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def key(system):
    return key_of(system)


@pytest.fixture
def admin(app, key):
    return Browser(app, key)


def records(system, action):
    """(key, object) of the audit log's records of an action."""
    found = system.audit.read(ADMIN, limit=1000)
    return [(each["key_id"], each["object"]) for each in found if each["action"] == action]


def made_in(page):
    return re.search(r'id="made"[^>]* value="([^"]+)"', page)[1]


# -- keys ----------------------------------------------------------------------------------------------


def test_an_admin_makes_a_key_that_is_shown_once_and_counts(system, admin, key):
    page = admin.post("keys/create", NEW)
    assert page.status_code == 200, page.text
    assert page.headers["cache-control"] == "no-store"
    made = system.keys.authenticate(made_in(page.text))
    assert (made.tenant, made.role, made.scopes) == ("acme", Role.WRITER, None)
    assert abs(made.expires_us - now_us() - 30 * DAY_US) < DAY_US
    later = admin.get("keys").text
    assert made_in(page.text) not in later
    assert made.key_id in later
    assert "the app" in later
    by = system.keys.authenticate(key).key_id
    assert records(system, "key.create")[-1] == (by, made.key_id)


def test_a_key_without_days_does_not_end_and_a_bad_form_makes_none(system, admin):
    page = admin.post("keys/create", {"role": "reader", "label": "", "days": ""})
    assert system.keys.authenticate(made_in(page.text)).expires_us is None
    count = len(system.keys.list("acme"))
    for wrong in ({"role": "root"}, {"days": "0"}, {"days": "-1"}, {"label": "x" * 201}):
        assert admin.post("keys/create", NEW | wrong).status_code == 400
    assert len(system.keys.list("acme")) == count


def test_a_key_ends_with_the_key_that_makes_it_at_the_latest(system, app):
    record, short = system.keys.create("acme", Role.ADMIN, ttl_seconds=3600)
    for days in ("", "30"):
        page = Browser(app, short).post("keys/create", NEW | {"days": days})
        ends = system.keys.authenticate(made_in(page.text)).expires_us
        assert record.expires_us - 10_000_000 < ends <= record.expires_us


def test_an_admin_revokes_a_key_of_the_tenant_but_not_the_own_one(system, admin, key):
    other, secret = system.keys.create("acme", Role.WRITER)
    foreign, theirs = system.keys.create("globex", Role.WRITER)
    own = system.keys.authenticate(key).key_id
    assert f'name="key" value="{other.id}"' in admin.get("keys").text
    assert f'name="key" value="{own}"' not in admin.get("keys").text
    done = admin.post("keys/revoke", {"key": other.id})
    assert (done.status_code, done.headers["location"]) == (303, "/memory/keys?done=key-revoked")
    assert "The key is revoked" in admin.http.get(done.headers["location"]).text
    with pytest.raises(Unauthorized):
        system.keys.authenticate(secret)
    assert admin.post("keys/revoke", {"key": own}).status_code == 400
    assert admin.post("keys/revoke", {"key": foreign.id}).status_code == 404
    assert system.keys.authenticate(key).key_id == own
    assert system.keys.authenticate(theirs).key_id == foreign.id
    assert records(system, "key.revoke") == [(own, other.id)]


def test_a_label_is_inert(admin):
    page = admin.post("keys/create", NEW | {"label": SCRIPT})
    assert page.status_code == 200
    check_inert(page.text)


def test_a_server_without_keys_makes_its_first_one_on_the_command_line(system, app):
    local = TestClient(app, base_url="https://localhost", client=("127.0.0.1", 1))
    page = local.get("/memory/sign-in")
    local.post("/memory/sign-in", data={"form_token": token_in(page.text)})
    token = token_in(local.get("/memory/keys").text)
    page = local.post("/memory/keys/create", data={**NEW, "form_token": token})
    assert page.status_code == 403
    assert "memos keys create" in page.text
    assert system.keys.list() == []


# -- the policy ----------------------------------------------------------------------------------------


def test_an_admin_sets_the_policy_as_a_new_version(system, admin, key):
    page = admin.get("policy").text
    assert re.search(r'<textarea id="policy"[^>]*>\n\{\}</textarea>', page)
    tree = {"kinds": ["plaintext"], "retention": [{"max_days": 30, "tag": "chat"}]}
    done = admin.post("policy", {"policy": json.dumps(tree), "number": "0"})
    assert (done.status_code, done.headers["location"]) == (303, "/memory/policy?done=policy")
    policy = system.policies.policy_of("acme")
    assert (policy.kinds, policy.retention[0].max_days) == (("plaintext",), 30)
    page = admin.http.get(done.headers["location"]).text
    assert "The policy is set" in page
    assert 'name="number" value="1"' in page
    assert "max_days" in re.search(r"<textarea.*?</textarea>", page, re.DOTALL)[0]
    by = system.keys.authenticate(key).key_id
    assert [each[0] for each in records(system, "policy.set")] == [by]


def test_a_form_of_an_older_version_sets_nothing(system, admin):
    assert admin.post("policy", {"policy": '{"kv": "near"}', "number": "0"}).status_code == 303
    assert admin.post("policy", {"policy": "{}", "number": "0"}).status_code == 409
    assert system.policies.policy_of("acme").kv == "near"
    assert admin.post("policy", {"policy": "{}", "number": "1"}).status_code == 303


@pytest.mark.parametrize(
    "wrong", ["", "{", "[]", "null", '{"kind": []}', '{"kv": 1}', '{"kv": 1e999}']
)
def test_a_policy_that_is_none_sets_nothing(system, admin, wrong):
    page = admin.post("policy", {"policy": wrong, "number": "0"})
    assert page.status_code == 400, page.text
    check_inert(page.text)
    assert 'name="number" value="0"' in admin.get("policy").text


# -- who may not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("role", [Role.READER, Role.WRITER, "scoped"])
def test_other_keys_are_refused(system, app, form, role):
    path, fields = form
    scopes = [Scope.READ, Scope.CHAT] if role == "scoped" else None
    key = system.keys.create("acme", Role.ADMIN if scopes else role, scopes=scopes)[1]
    count = len(system.keys.list())
    assert Browser(app, key).post(path, fields).status_code == 403
    assert len(system.keys.list()) == count
    assert records(system, "policy.set") == []


@pytest.mark.parametrize("form", FORMS)
def test_a_form_without_its_token_does_nothing(system, admin, form):
    path, fields = form
    assert admin.http.post(f"/memory/{path}", data=fields).status_code == 403
    assert len(system.keys.list()) == 1
    assert records(system, "policy.set") == []


def test_a_persons_view_shows_nothing_of_it(system, app):
    headers = {"Authorization": f"Bearer {key_of(system, Role.WRITER)}"}
    backend = TestClient(app, base_url=ORIGIN, headers=headers)
    view = opened(app, link(backend, scopes=["memory.read", "memory.write"])["url"])
    shown = view.get("person").text
    assert "/memory/keys" not in shown
    assert "/memory/policy" not in shown
    for page in ("keys", "policy"):
        assert view.get(page).status_code == 403
    for path, fields in FORMS:
        assert view.post(path, fields).status_code == 403
    assert len(system.keys.list()) == 1
