"""Actions of the console: each does what its route of the API does, with the same record in the audit log."""

from __future__ import annotations

import html
import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from memos_vllm.erasure.eraser import Eraser
from memos_vllm.governance.principal import Role
from memos_vllm.learning.restore import Restoring
from tests.conftest import freeze, principal
from tests.console import Browser, console_app, key_of

ADMIN = principal("", role=Role.ADMIN)
ALICE = {"person": "alice"}


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def api(system, app):
    headers = {"Authorization": f"Bearer {key_of(system)}", "X-Memos-User": "alice"}
    return TestClient(app, headers=headers)


@pytest.fixture
def writer(system, app):
    return Browser(app, key_of(system, Role.WRITER))


@pytest.fixture
def admin(system, app):
    return Browser(app, key_of(system))


@pytest.fixture
def made(api):
    content = [{"text": "Alice likes oolong tea."}, {"text": "Bob likes coffee."}]
    body = {"meta": {"name": "likes"}, "payload": {"type": "explicit", "content": content}}
    return api.post("/v1/memory/cubes", json=body).json()["meta"]


def texts(api, cube):
    return [
        each["text"] for each in api.get(f"/v1/memory/cubes/{cube}").json()["payload"]["content"]
    ]


def claims(api):
    return api.get("/v1/memory/claims").json()["claims"]


def actions(system):
    return [each["action"] for each in system.audit.read(ADMIN, limit=1000)]


def test_a_statement_is_noted_corrected_forgotten_and_brought_back(system, api, writer):
    done = writer.post("note", {"text": "My cat is called Miso."}, **ALICE)
    assert done.status_code == 303
    (claim,) = claims(api)
    at = {"cube": claim["cube"], "item": claim["item"]["id"], **ALICE}
    page = writer.get("item", **at).text
    assert "Corrected text" in page
    done = writer.post("item/correct", {"text": "My cat is called Tofu."}, **at)
    assert done.status_code == 303, done.text
    assert "corrected" in writer.http.get(done.headers["location"]).text
    found = {each["item"]["text"]: each["item"]["claim"]["ends"] for each in claims(api)}
    assert found["alice's cat is called Miso"] is not None
    assert found["alice's cat is called Tofu"] is None

    preview = writer.get("forget", subject="my cat", **ALICE).text
    assert "Tofu" in preview
    assert len(claims(api)) == 2  # a preview changes nothing
    fields = writer.hidden("forget", subject="my cat", **ALICE)
    done = writer.post("forget", fields, **ALICE)
    assert done.status_code == 200
    assert claims(api) == []
    undo = dict(re.findall(r'name="(undo)" value="([^"]+)"', done.text))
    assert writer.post("undo", undo, **ALICE).status_code == 303
    assert len(claims(api)) == 2
    assert writer.post("undo", undo, **ALICE).status_code == 404
    records = system.audit.read(ADMIN, limit=1000)
    changes = [each for each in records if each["action"] in ("cube.create", "cube.update")]
    assert len(changes) >= 4
    key = next(each.id for each in system.keys.list("acme") if each.role is Role.WRITER)
    assert {(each["key_id"], each["person"]) for each in changes} == {(key, "alice")}
    assert all(each["request_id"] for each in changes)
    assert "Tofu" not in str(records)


def test_forgetting_takes_exactly_what_its_preview_has_shown(api, writer):
    writer.post("note", {"text": "My cat is called Miso."}, **ALICE)
    fields = writer.hidden("forget", subject="Miso", **ALICE)
    assert writer.post("note", {"text": "My friend is called Miso."}, **ALICE).status_code == 303
    before = claims(api)
    reply = writer.post("forget", fields, **ALICE)
    assert reply.status_code == 409
    assert "nothing was forgotten" in reply.text
    assert claims(api) == before
    fresh = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', reply.text))
    assert writer.post("forget", fresh, **ALICE).status_code == 200
    assert claims(api) == []


def test_one_item_and_one_conversation_are_forgotten(api, writer, chat):
    chat("My dog is called Rex.")
    chat("I like jazz.")
    cube = next(
        each for each in api.get("/v1/memory/cubes").json()["cubes"] if each["name"] == "chat-s#1"
    )
    page = writer.get("cube", cube=cube["id"], **ALICE).text
    assert "Forget this conversation" in page
    content = api.get(f"/v1/memory/cubes/{cube['id']}").json()["payload"]["content"]
    item = next(each["id"] for each in content if "Rex" in each["text"])
    fields = writer.hidden("forget", what="items", subject=item, **ALICE)
    assert writer.post("forget", fields, **ALICE).status_code == 200
    assert not any("Rex" in each for each in texts(api, cube["id"]))
    assert any("jazz" in each for each in texts(api, cube["id"]))
    fields = writer.hidden("forget", what="session", subject="s", **ALICE)
    done = writer.post("forget", fields, **ALICE)
    assert done.status_code == 200
    assert "Undo" in done.text
    assert texts(api, cube["id"]) == []


def test_text_of_a_cube_is_changed_removed_and_rolled_back(system, api, writer, made):
    cube = made["id"]
    item = api.get(f"/v1/memory/cubes/{cube}").json()["payload"]["content"][0]["id"]
    at = {"cube": cube, "item": item, **ALICE}
    fields = {"text": "Alice likes\r\ngreen tea.", "version": made["version"]}
    assert writer.post("item/change", fields, **at).status_code == 303
    assert texts(api, cube) == ["Alice likes\ngreen tea.", "Bob likes coffee."]
    assert writer.post("item/change", fields, **at).status_code == 404  # it is another item now
    content = api.get(f"/v1/memory/cubes/{cube}").json()
    other = {**at, "item": content["payload"]["content"][1]["id"]}
    stale = writer.post("item/remove", {"version": made["version"]}, **other)
    assert stale.status_code == 409
    current = content["meta"]["version"]
    assert writer.post("item/remove", {"version": current}, **other).status_code == 303
    assert texts(api, cube) == ["Alice likes\ngreen tea."]
    page = writer.get("cube/versions", cube=cube, **ALICE).text
    assert page.count("Back to") == 2
    newest = api.get(f"/v1/memory/cubes/{cube}").json()["meta"]["version"]
    back = {"target": made["version"], "version": newest}
    assert writer.post("cube/rollback", back, cube=cube, **ALICE).status_code == 303
    assert texts(api, cube) == ["Alice likes oolong tea.", "Bob likes coffee."]
    diff = writer.get("cube/diff", cube=cube, older=newest, **ALICE).text
    assert "Added: 2" in diff
    assert "Removed: 1" in diff
    assert actions(system).count("cube.update") == 2
    assert "cube.rollback" in actions(system)


def test_an_admin_freezes_with_a_reason_and_a_writer_does_not(system, api, admin, writer, made):
    at = {"cube": made["id"], **ALICE}
    fields = {"state": "frozen", "version": made["version"]}
    assert admin.post("cube/state", fields, **at).status_code == 422  # without a reason
    fields["reason"] = "case 7"
    assert writer.post("cube/state", fields, **at).status_code == 403
    assert admin.post("cube/state", fields, **at).status_code == 303
    meta = api.get(f"/v1/memory/cubes/{made['id']}").json()["meta"]
    assert meta["state"] == "frozen"
    seen = writer.hidden("cube/delete", **at)
    assert writer.post("cube/delete", seen, **at).status_code == 409
    lifted = {"state": "archived", "version": meta["version"], "reason": "over"}
    assert admin.post("cube/state", lifted, **at).status_code == 303
    assert admin.post("cube/state", {**lifted, "state": "none"}, **at).status_code == 400


def test_a_cube_expires_and_is_merged_into_another(system, api, writer, made):
    at = {"cube": made["id"], **ALICE}
    fields = {"expires": "2101-02-03", "version": made["version"]}
    assert writer.post("cube/expiry", fields, **at).status_code == 303
    meta = api.get(f"/v1/memory/cubes/{made['id']}").json()["meta"]
    assert meta["expires"].startswith("2101-02-03T23:59:59")
    assert writer.post("cube/expiry", {**fields, "expires": "2101-02-30"}, **at).status_code == 400
    body = {
        "meta": {"name": "all"},
        "payload": {"type": "explicit", "content": [{"text": "Rain."}]},
    }
    other = api.post("/v1/memory/cubes", json=body).json()["meta"]["id"]
    assert writer.post("cube/merge", {"into": "none"}, **at).status_code == 404
    assert writer.post("cube/merge", {"into": "all"}, **at).status_code == 303
    assert len(texts(api, other)) == 3
    assert api.get(f"/v1/memory/cubes/{made['id']}").json()["meta"]["state"] == "merged"


def test_a_cube_is_deleted_as_its_preview_says(system, api, writer, made):
    at = {"cube": made["id"], **ALICE}
    preview = writer.get("cube/delete", **at).text
    assert "2 items, 1 versions" in preview
    seen = writer.hidden("cube/delete", **at)
    patch = {"append": [{"text": "Alice likes rain."}]}
    api.patch(f"/v1/memory/cubes/{made['id']}", json=patch)
    changed = writer.post("cube/delete", seen, **at)
    assert changed.status_code == 409
    assert "Alice likes rain." in changed.text
    seen = writer.hidden("cube/delete", **at)
    assert writer.post("cube/delete", seen, **at).status_code == 303
    assert api.get(f"/v1/memory/cubes/{made['id']}").status_code == 404
    assert "cube.delete" in actions(system)


def test_a_reader_changes_nothing(system, app, api, made):
    api.post("/v1/memory/feedback", json={"text": "My cat is called Miso."})
    reader = Browser(app, key_of(system, Role.READER))
    (claim,) = claims(api)
    own = {"cube": claim["cube"], "item": claim["item"]["id"]}
    item = api.get(f"/v1/memory/cubes/{made['id']}").json()["payload"]["content"][0]["id"]
    other = {"cube": made["id"], "item": item}
    version = {"version": made["version"]}
    for path, fields, query in (
        ("note", {"text": "I live in Rome."}, {}),
        ("item/correct", {"text": "My cat is called Tofu."}, own),
        ("item/change", {"text": "x", **version}, other),
        ("item/remove", version, other),
        ("cube/state", {"state": "archived", **version}, other),
        ("cube/expiry", {"expires": "2101-02-03", **version}, other),
        ("cube/merge", {"into": claim["cube"]}, other),
        ("cube/share", {"subject": "person", "name": "bob", "permissions": "read"}, other),
        ("cube/unshare", {"subject": "person", "name": "bob", "effect": "allow"}, other),
        ("cube/rollback", {"target": made["version"], **version}, other),
        ("cube/delete", {"seen": "x", **version}, other),
        ("forget", {"what": "text", "subject": "my cat", "seen": "x"}, {}),
        ("undo", {"undo": "x"}, {}),
        ("restore", {"moment": "2026-01-01T00:00:00+00:00"}, {}),
        ("access/link", {}, {}),
        ("access/revoke", {"token": "x"}, {}),
        ("access/erase", {"name": "alice"}, {}),
    ):
        reply = reader.post(path, fields, **query, **ALICE)
        # What only previews again changes nothing either.
        assert reply.status_code == 403 or (path, reply.status_code) == ("cube/delete", 409), path
    seen = reader.hidden("cube/delete", **other, **ALICE)
    assert reader.post("cube/delete", seen, **other, **ALICE).status_code == 403
    assert len(claims(api)) == 1
    assert texts(api, made["id"]) == ["Alice likes oolong tea.", "Bob likes coffee."]


def test_shared_memory_is_an_admins_to_change(system, app, api, admin, writer):
    body = {
        "meta": {"name": "house rules", "shared": True},
        "payload": {"type": "explicit", "content": [{"text": "No shoes inside."}]},
    }
    meta = api.post("/v1/memory/cubes", json=body).json()["meta"]
    item = api.get(f"/v1/memory/cubes/{meta['id']}").json()["payload"]["content"][0]["id"]
    at = {"cube": meta["id"], "item": item}
    assert "No shoes inside." in writer.get("item", **at).text
    fields = {"text": "Shoes are fine.", "version": meta["version"]}
    assert writer.post("item/change", fields, **at).status_code == 403
    assert admin.post("item/change", fields, **at).status_code == 303
    assert texts(api, meta["id"]) == ["Shoes are fine."]


def test_a_cube_is_shared_with_a_person_and_taken_back(system, app, api, writer, made):
    at, bob = {"cube": made["id"], **ALICE}, {"cube": made["id"], "person": "bob"}
    assert writer.get("cube", **bob).status_code == 404
    fields = {"subject": "person", "name": "bob", "permissions": ["read", "use"], "days": "7"}
    assert writer.post("cube/share", fields, **at).status_code == 303
    page = writer.get("cube", **at).text
    assert "<bdi>bob</bdi>" in page
    assert writer.get("cube", **bob).status_code == 200
    assert writer.post("cube/share", {**fields, "name": "carol"}, **bob).status_code == 403
    assert "Share" not in writer.get("cube", **bob).text.replace("Shared", "")
    for bad in ({"permissions": ["all"]}, {"subject": "person", "name": ""}, {"permissions": []}):
        assert writer.post("cube/share", {**fields, **bad}, **at).status_code == 400, bad
    gone = {"subject": "person", "name": "bob", "effect": "allow"}
    assert writer.post("cube/unshare", gone, **at).status_code == 303
    assert writer.get("cube", **bob).status_code == 404
    assert {"grant.set", "grant.remove"} <= set(actions(system))


def test_a_persons_memory_is_restored_to_a_day(system, api, admin, made):
    with system.database.write() as session:  # the cube was made, and changed since
        session.execute(text("UPDATE cubes SET created_us = 1600000000000000"))
        session.execute(text("UPDATE versions SET created_us = 1600000000000000"))
    patch = {"append": [{"text": "Alice likes rain."}]}
    api.patch(f"/v1/memory/cubes/{made['id']}", json=patch)
    day = {"day": "2020-12-24", **ALICE}
    page = admin.get("restore", **day).text
    assert "1 cubes differ from then" in page
    moment = html.unescape(admin.hidden("restore", **day)["moment"])
    assert admin.post("restore", {"moment": moment}, **day).status_code == 303
    with system.database.read() as session:
        order = session.execute(text("SELECT id FROM restores")).scalar()
    Restoring(system).job(order)
    assert texts(api, made["id"]) == ["Alice likes oolong tea.", "Bob likes coffee."]
    assert any("restore" in each for each in actions(system))


def test_a_person_is_erased_by_name_with_a_receipt(system, api, admin, made):
    wrong = admin.post("access/erase", {"name": "bob"}, **ALICE)
    assert wrong.status_code == 400
    assert texts(api, made["id"])
    done = admin.post("access/erase", {"name": "alice"}, **ALICE)
    assert done.status_code == 303
    assert api.get(f"/v1/memory/cubes/{made['id']}").status_code == 404
    erasure = done.headers["location"].rpartition("=")[2]
    Eraser(system).run_now(erasure)
    page = admin.get("erasure", erasure=erasure).text
    assert "signature" in page
    assert erasure in admin.get("erasures").text


def test_a_link_to_a_persons_view_is_made_listed_and_revoked(system, app, writer):
    page = writer.post("access/link", {}, **ALICE).text
    link = html.unescape(re.search(r'readonly value="([^"]+)"', page)[1])
    assert link.startswith("https://memory.test/memory/view?token=pt-memos-")
    assert "readonly" not in writer.get("access", **ALICE).text  # shown once
    (token,) = system.keys.tokens.of_person(principal("", role=Role.WRITER), "alice")
    assert writer.post("access/revoke", {"token": token.id}, person="bob").status_code == 404
    assert writer.post("access/revoke", {"token": token.id}, **ALICE).status_code == 303
    assert Browser(app).sign_in(link.partition("token=")[2]).status_code == 401
    assert {"token.create", "token.revoke"} <= set(actions(system))


def test_a_hold_keeps_what_it_holds_and_the_preview_says_so(system, api, writer):
    writer.post("note", {"text": "My cat is called Miso."}, **ALICE)
    (claim,) = claims(api)
    freeze(system, claim["cube"])
    preview = writer.get("forget", subject="my cat", **ALICE).text
    assert "a legal hold keeps them" in preview
    assert "Nothing matches" in preview
