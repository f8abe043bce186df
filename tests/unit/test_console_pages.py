"""Pages of the console by role, tenant and person; paging; what a person sees of facts, plans and costs."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.governance.principal import Role, Scope
from tests.conftest import principal
from tests.console import Browser, console_app, entry, key_of, store_plan

OF_A_PERSON = ("person", "person/facts", "person/cubes", "person/search", "plans", "cost")
OF_AN_ADMIN = ("people", "store", "keys", "policy", "audit", "erasures")
PLAIN = {"payload": {"type": "explicit", "content": [{"text": "Alice likes oolong tea."}]}}


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def api(system, app):
    """Calls of the API as Alice of acme, by an admin key."""
    headers = {"Authorization": f"Bearer {key_of(system)}", "X-Memos-User": "alice"}
    return TestClient(app, headers=headers)


@pytest.fixture
def cube(api):
    made = api.post("/v1/memory/cubes", json={"meta": {"name": "teas"}, **PLAIN})
    assert made.status_code == 201
    return made.json()["meta"]["id"]


def tell(api, said):
    assert api.post("/v1/memory/feedback", json={"text": said}).status_code == 200


@pytest.mark.parametrize("role", list(Role))
def test_each_role_has_its_pages_and_is_refused_the_others(system, app, cube, role):
    browser = Browser(app, key_of(system, role))
    for path in (*OF_A_PERSON, "cube", "cube/versions"):
        query = {"cube": cube} if path.startswith("cube") else {"q": "tea"}
        assert browser.get(path, person="alice", **query).status_code == 200, path
    is_admin = role is Role.ADMIN
    for path in OF_AN_ADMIN:
        reply = browser.get(path)
        assert reply.status_code == (200 if is_admin else 403), path
    assert browser.get("groups").status_code == 200
    overview = browser.get("").text
    assert (">Audit<" in overview) == is_admin
    assert ("/memory/people" in overview) == is_admin
    cube_page = browser.get("cube", person="alice", cube=cube).text
    assert ("Delete the cube" in cube_page) == (role is not Role.READER)
    assert ("Tell memory" in browser.get("person", person="alice").text) == (
        role is not Role.READER
    )
    refused = {"admin": 200, "writer": 200, "reader": 403}[role]
    assert browser.get("access", person="alice").status_code == refused


def test_a_key_with_a_list_of_scopes_has_the_pages_of_its_scopes(system, app, cube):
    admin = system.keys.create("acme", Role.ADMIN, scopes=[Scope.READ])[1]
    browser = Browser(app, admin)
    for path in (*OF_A_PERSON, "cube"):
        assert browser.get(path, person="alice", cube=cube).status_code == 200, path
    for path in (*OF_AN_ADMIN, "groups", "access"):
        assert browser.get(path, person="alice").status_code == 403, path
    assert browser.post("note", {"text": "I live in Rome."}, person="alice").status_code == 403
    chats = Browser(app, system.keys.create("acme", Role.ADMIN, scopes=[Scope.CHAT])[1])
    for path in (*OF_A_PERSON, *OF_AN_ADMIN, "", "groups", "access"):
        query = {"person": "alice", "q": "tea"}
        assert chats.get(path, **query).status_code == 403, path


def test_a_refused_look_at_the_audit_log_is_recorded(system, app):
    Browser(app, key_of(system, Role.READER)).get("audit")
    records = system.audit.read(principal("", role=Role.ADMIN))
    assert "audit.refused" in [each["action"] for each in records]


def test_another_tenants_key_finds_nothing_of_this_one(system, app, api, cube):
    tell(api, "My cat is called Miso.")
    store_plan(system, "chatcmpl-1")
    other = Browser(app, key_of(system, tenant="rival"))
    for path in (*OF_A_PERSON, *OF_AN_ADMIN, "groups", ""):
        page = other.get(path, person="alice", q="cat tea").text
        assert "Miso" not in page, path
        assert "oolong" not in page, path
        assert "chatcmpl-1" not in page, path
        assert "acme" not in page, path
    for path, query in (
        ("cube", {"cube": cube}),
        ("cube/versions", {"cube": cube}),
        ("cube/delete", {"cube": cube}),
        ("cube/diff", {"cube": cube, "older": "v_1"}),
        ("item", {"cube": cube, "item": "item_1"}),
        ("plan", {"request": "chatcmpl-1"}),
    ):
        assert other.get(path, person="alice", **query).status_code == 404, path
    for path, fields in (
        ("cube/state", {"state": "archived", "version": "v"}),
        ("cube/rollback", {"target": "v_1", "version": "v"}),
        ("item/remove", {"version": "v"}),
    ):
        sent = other.post(path, fields, person="alice", cube=cube, item="item_1")
        assert sent.status_code == 404, path


def test_a_writer_key_that_names_bob_sees_nothing_of_alice(system, app, api, cube):
    tell(api, "My cat is called Miso.")
    store_plan(system, "chatcmpl-1")
    bob = Browser(app, key_of(system, Role.WRITER))
    for path in OF_A_PERSON:
        page = bob.get(path, person="bob", q="cat tea").text
        assert "Miso" not in page, path
        assert "oolong" not in page, path
        assert "chatcmpl-1" not in page, path
    assert bob.get("cube", person="bob", cube=cube).status_code == 404
    assert bob.get("plan", person="bob", request="chatcmpl-1").status_code == 404
    assert bob.get("plan", request="chatcmpl-1").status_code == 404


def test_names_with_slashes_percent_signs_and_scripts_of_the_world_open_their_person(system, app):
    admin = Browser(app, key_of(system))
    for name in (
        "u/1",
        "../keys",
        "a&b=c",
        "100%",
        "Ånne Ólafsdóttir",
        "محمد",
        "李 雷",
        "?x#y",
        "a+b",
    ):
        system.create(principal(name), [new_cube("Only " + name)])
    listed = admin.get("people").text
    links = re.findall(r'href="(/memory/person\?person=[^"]+)"', listed)
    assert len(links) == 9
    for link in links:
        page = admin.http.get(link.replace("&amp;", "&"))
        assert page.status_code == 200
        cubes = re.search(r'href="(/memory/person/cubes\?person=[^"]+)">All cubes', page.text)
        shown = admin.http.get(cubes[1].replace("&amp;", "&")).text
        assert len(re.findall(r'href="/memory/cube\?', shown)) == 1


def new_cube(said, **meta):
    return NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=[Item(text=said)]))


def test_people_and_cubes_are_paged(system, app):
    for number in range(60):
        system.vault.create(principal(f"person-{number:03d}"), new_cube("x"))
        system.vault.create(principal("alice"), new_cube("y", name=f"cube-{number:03d}"))
    admin = Browser(app, key_of(system))
    for path, link, total in (
        ("people", "/memory/person?", 61),
        ("person/cubes", "/memory/cube?", 60),
    ):
        query, seen = {"person": "alice"} if path != "people" else {}, set()
        page = admin.get(path, **query).text
        for expected in (50, total - 50):
            found = set(re.findall(rf'href="({re.escape(link)}[^"]+)"', page)) - {link}
            found = {each for each in found if 'rel="' not in each and "<th" not in each}
            rows = page.count('<tr><th scope="row">')
            assert rows == expected
            seen |= found
            following = re.search(r'<a href="([^"]+)" rel="next"', page)
            if expected != 50:
                assert following is None
            else:
                page = admin.http.get(following[1].replace("&amp;", "&")).text
        assert len(seen) >= total


def test_items_versions_facts_plans_and_keys_are_paged(system, app, api):
    content = [{"text": f"Line {n} of a list."} for n in range(120)]
    made = api.post(
        "/v1/memory/cubes", json={"payload": {"type": "explicit", "content": content}}
    ).json()["meta"]
    for number in range(60):
        store_plan(system, f"chatcmpl-{number:03d}", injected_tokens=10 * number)
    for _ in range(55):
        system.keys.create("acme", Role.READER)
    admin = Browser(app, key_of(system))
    first = admin.get("cube", person="alice", cube=made["id"]).text
    assert "Line 49 of" in first
    assert "Line 50 of" not in first
    assert "1–50 of 120" in first
    last = admin.get("cube", person="alice", cube=made["id"], offset=100).text
    assert "Line 119 of" in last
    for path in ("plans", "cost"):
        page = admin.get(path, person="alice").text
        assert page.count("/memory/plan?") == 50
        following = re.search(r'<a href="([^"]+)" rel="next"', page)[1].replace("&amp;", "&")
        assert admin.http.get(following).text.count("/memory/plan?") == 10
    assert "1–50 of 57" in admin.get("keys").text
    assert "51–57 of 57" in admin.get("keys", offset=50).text


def test_facts_show_what_was_until_when_and_what_holds(system, app, api):
    tell(api, "I live in Paris.")
    tell(api, "I live in Rome.")
    admin = Browser(app, key_of(system))
    page = admin.get("person/facts", person="alice").text
    rows = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*alice lives in (\w+)(.*?)</tr>", page, re.S)
    found = dict(rows)
    assert set(found) == {"Paris", "Rome"}
    assert "<td>was" in found["Paris"]
    assert "<td>holds" in found["Rome"]
    assert found["Paris"].count("<time") == found["Rome"].count("<time") + 1
    profile = admin.get("person", person="alice").text
    assert "lives in Rome" in profile
    assert "lives in Paris" not in profile


def test_memory_as_of_a_day_before_it_was_said_is_empty(system, app, api, cube):
    tell(api, "My cat is called Miso.")
    admin = Browser(app, key_of(system))
    for path in ("person", "person/facts", "person/cubes", "person/search"):
        now = admin.get(path, person="alice", q="cat").text
        then = admin.get(path, person="alice", q="cat", day="2020-02-03")
        assert then.status_code == 200
        assert "end of 2020-02-03" in then.text
        assert "Miso" in now or "teas" in now, path
        assert "Miso" not in then.text, path
        assert "teas" not in then.text
    assert admin.get("cube", person="alice", cube=cube, day="2020-02-03").status_code == 404
    for bad in ("2020-02-30", "3020-01-01", "yesterday", "2020-2-3"):
        assert admin.get("person", person="alice", day=bad).status_code == 400, bad


def test_a_plan_shows_question_candidates_bars_decisions_and_reasons(system, app, api, cube):
    item = api.get(f"/v1/memory/cubes/{cube}").json()["payload"]["content"][0]["id"]
    said = [{"text": "Which tea do I like?", "speaker": "alice", "source": "chatcmpl-7:user"}]
    api.post("/v1/memory/cubes", json={"payload": {"type": "explicit", "content": said}})
    store_plan(
        system,
        "chatcmpl-7",
        entries=(
            entry(
                cube,
                item,
                name="teas",
                score=0.8,
                signals={"bm25": 0.5, "cosine": -0.25},
                tokens=12,
            ),
            entry(
                "cube_gone", "item_gone", decision="rejected", reason="over the budget", score=0.2
            ),
            entry(cube, placement=Placement.STABLE, tokens=30),
        ),
        injected_tokens=42,
        prompt_tokens=100,
        cached_tokens=64,
        cached=[{"kind": "exact", "source": "disk", "tokens": 64}],
        steps_ms={"search": 12.5, "plan": 1.25},
    )
    page = Browser(app, key_of(system)).get("plan", person="alice", request="chatcmpl-7").text
    for shown in (
        *(
            "Which tea do I like?",
            "Alice likes oolong tea.",
            "2 used, 1 rejected",
            "over the budget",
        ),
        *(
            "bm25",
            "cosine",
            "0.800",
            "-0.250",
            "42 injected",
            "64 exact from disk",
            "search",
            "12.5",
        ),
        "not stored, or not readable now",
    ):
        assert shown in page, shown
    assert 'class="fill" width="120.0"' in page
    assert 'class="minus" width="30.0"' in page
    assert 'class="fill" width="30.0"' in page


def test_costs_are_charts_with_tables_of_the_same_figures(system, app):
    for number, took in enumerate((2.0, 4.0, 30.0)):
        store_plan(
            system,
            f"chatcmpl-{number}",
            injected_tokens=100,
            prompt_tokens=400,
            cached_tokens=300,
            cached=[{"kind": "near", "source": "memory", "tokens": 300}],
            steps_ms={"search": took, "embed": 1.0},
        )
    page = Browser(app, key_of(system)).get("cost").text
    assert "300 tokens of memory injected; 900 of 1,200 prompt tokens" in page
    assert page.count('<svg class="chart"') == 2
    assert page.count("300 near (memory)") == 3
    search = re.search(r'<th scope="row"><bdi>search</bdi></th>(.*?)</tr>', page, re.S)[1]
    assert re.findall(r">([\d.]+)<", search) == ["3", "4.0", "30.0", "36.0"]
    heights = [float(h) for h in re.findall(r'<rect class="s0"[^>]* height="([\d.]+)"/>', page)]
    assert max(heights) <= 180


def test_admins_see_keys_policy_audit_and_its_verification(system, app, cube):
    admin = Browser(app, key_of(system))
    record = system.keys.list("acme")[0]
    keys = admin.get("keys").text
    assert record.id in keys
    assert "sk-memos" not in keys
    policy = admin.get("policy").text
    assert "&#34;kinds&#34;" in policy
    audit = admin.get("audit").text
    assert "cube.create" in audit
    assert "console.sign_in" in audit
    assert "The log is whole" in admin.get("audit", verify="true").text
    with system.database.write() as session:
        session.execute(text("UPDATE audit_entries SET object = 'x' WHERE action = 'cube.create'"))
    assert "The log is not whole" in admin.get("audit", verify="true").text


def test_the_newest_page_of_a_long_audit_log_comes_first(system, app):
    admin_principal = principal("", role=Role.ADMIN)
    for number in range(130):
        system.audit.note(admin_principal, "test.note", f"object-{number:03d}", {})
    admin = Browser(app, key_of(system))
    page = admin.get("audit").text
    assert "object-129" in page
    assert "object-060" not in page
    older = re.search(r'rel="prev" href="([^"]+)"', page)[1].replace("&amp;", "&")
    assert "object-060" in admin.http.get(older).text
    assert "object-000" in admin.get("audit", after=0).text


def test_a_page_that_does_not_exist_and_bad_values_are_pages_with_their_status(system, app, cube):
    admin = Browser(app, key_of(system))
    for path, query, status in (
        ("nowhere", {}, 404),
        ("person", {"person": "x" * 300}, 400),
        ("person", {"person": "a\x00b"}, 400),
        ("person", {"person": "a\nb"}, 400),
        ("cube", {"cube": "a\x00b"}, 400),
        ("cube", {"cube": "../../etc/passwd"}, 404),
        ("cube", {"cube": "x" * 300}, 400),
        ("cube", {}, 400),
        ("cube", {"cube": cube, "version": "v_none", "person": "alice"}, 404),
        ("cube", {"cube": cube, "offset": -1, "person": "alice"}, 400),
        ("person/cubes", {"cursor": "ø", "person": "alice"}, 400),
        ("plans", {"cursor": "bm9uZQ=="}, 400),
        ("person/cubes", {"which": "none"}, 400),
        ("audit", {"after": 2**70}, 400),
        ("item", {"cube": cube, "item": "item_none", "person": "alice"}, 404),
        ("plan", {"request": "\u202e<script>"}, 404),
        ("person/search", {"person": "alice", "q": "a\x00b"}, 400),
        ("erasure", {"erasure": "none"}, 404),
        ("group", {"group": "none"}, 404),
    ):
        reply = admin.get(path, **query)
        assert reply.status_code == status, (path, query, reply.text[-400:])
        assert "<h1>" in reply.text
        assert "content-security-policy" in reply.headers
