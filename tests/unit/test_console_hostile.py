"""Hostile content in the console: markup, huge lines, controls and overrides of direction are shown inert."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest

from memos_vllm.console import pages
from memos_vllm.console.visit import ConsoleRoute
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.principal import Role
from tests.conftest import principal
from tests.console import (
    Browser,
    address,
    console_app,
    entry,
    key_of,
    store_plan,
    token_in,
)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' onfocus=alert(3) x='{{7*7}}"
RTL = "\u202egpj.exe\u2066 مرحبا {{ 7*7 }} \u200f"
NAME = SCRIPT.replace("/", "\\")
PERSON = "<b onclick=x>'\"&{{7*7}}مرحبا"


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def hostile(system):
    """A cube of a person whose names and texts are all hostile; returns its id."""
    content = [
        Item(text=SCRIPT, speaker=SCRIPT, session=SCRIPT, source=SCRIPT),
        Item(text=RTL),
        Item(text="a\x01\x1b[31m\x7f\x85b"),
        Item(text="L" * 1_000_000),
        Item(text="</textarea></pre></title>" + SCRIPT),
    ]
    who = principal(PERSON)
    new = NewCube(
        meta=NewMeta(name=NAME, tags=[SCRIPT, "document"]),
        payload=ExplicitPayload(content=content),
    )
    made = system.vault.create(who, new)
    cube, item = made.meta.id, made.items[0].id
    plan = {"skipped": SCRIPT, "degraded": [SCRIPT], "steps_ms": {SCRIPT: 1.0}}
    entries = (entry(cube, item, name=NAME, reason=SCRIPT, signals={SCRIPT: 0.5}, score=1.0),)
    store_plan(system, SCRIPT, PERSON, entries=entries, **plan)
    system.keys.create("acme", Role.READER, label=SCRIPT)
    return cube


class Elements(HTMLParser):
    """Counts what could act: scripts, handlers, styles, frames, images, unexpected addresses."""

    def __init__(self):
        super().__init__()
        self.scripts, self.bad = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src") or "inline")
        if tag in ("img", "iframe", "object", "style", "b"):
            self.bad.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.bad.append((tag, name))
            if name in ("href", "src", "action", "hx-get") and not value.startswith(
                ("/memory", "#")
            ):
                self.bad.append((tag, name, value))


def check_inert(page):
    elements = Elements()
    elements.feed(page)
    assert elements.bad == []
    assert len(elements.scripts) == 1
    assert elements.scripts[0].startswith("/memory/static/htmx.min.js")
    assert "49" not in re.sub(r"\d{3,}|[0-9a-f]{12,}|:\d\d|\d+-\d+", "", page)  # no {{7*7}}
    page = re.sub(r"<textarea.*?</textarea>", "", page, flags=re.S)  # edited as it is
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)


def test_hostile_names_and_texts_are_inert_on_every_page(system, app, hostile):
    admin = Browser(app, key_of(system))
    meta = system.vault.get(principal(PERSON), hostile)
    items = [each.id for each in meta.items]
    at = {"person": PERSON}
    paths = [
        *[("", {}), ("people", {}), ("keys", {}), ("audit", {}), ("people", {"prefix": "<b"})],
        *[(path, at) for path in ("person", "person/facts", "person/cubes", "plans", "cost")],
        *[("person/search", {**at, "q": SCRIPT}), ("person/facts", {**at, "attribute": SCRIPT})],
        *[("person/cubes", {**at, "which": "documents"}), ("person/cubes", {**at, "prefix": NAME})],
        *[(path, {**at, "cube": hostile}) for path in ("cube", "cube/versions", "cube/delete")],
        *[("item", {**at, "cube": hostile, "item": item}) for item in items],
        *[("plan", {**at, "request": SCRIPT}), ("access", at), ("access/erase", at)],
        *[("forget", {**at, "what": "session", "subject": SCRIPT})],
        *[("forget", {**at, "what": "items", "subject": items[0]})],
        *[
            ("plan", {"request": "x" + SCRIPT}),
            ("cube", {**at, "cube": SCRIPT}),
            ("view", {"token": SCRIPT}),
        ],
        *[("person", {**at, "done": SCRIPT}), (SCRIPT, {})],
    ]
    for path, query in paths:
        reply = admin.get(path, **query)
        assert reply.status_code in (200, 404, 422), (path, reply.status_code)
        assert len(reply.content) < 200_000, (path, len(reply.content))
        check_inert(reply.text)


def test_a_line_of_a_megabyte_is_cut_and_can_be_read_to_its_end(system, app, hostile):
    admin = Browser(app, key_of(system))
    item = system.vault.get(principal(PERSON), hostile).items[3].id
    at = {"person": PERSON, "cube": hostile, "item": item}
    page = admin.get("cube", person=PERSON, cube=hostile).text
    assert "L" * 300 + "…" in page
    assert "L" * 301 not in page
    assert "whole text" in page
    first = admin.get("item", **at).text
    assert "1–20000 of 1,000,000" in first
    assert 'href="/memory/item?offset=20000' in first
    last = admin.get("item", offset=980_000, **at).text
    assert "L" * 20_000 in last
    assert "Next page" not in last


def test_text_is_isolated_and_controls_are_pictures():
    assert pages.shown("a\x00b\x1bc\x7fd\r") == "a\u2400b\u241bc\ufffdd\u240d"
    assert pages.shown("tab\tline\n") == "tab\tline\n"
    assert str(pages.bdi(RTL)).startswith("<bdi>\ufffdgpj.exe\ufffd مرحبا")
    assert str(pages.bdi("<x>", 2)) == "<bdi>&lt;x…</bdi>"
    assert pages.size(0) == "0 B"
    assert pages.size(1536) == "1.5 KiB"
    assert str(pages.moment(None)) == ""


def test_an_edit_form_gives_back_the_text_as_it_is(system, app):
    said = "\n two lines\n</textarea><script>x</script> &amp; 'q' \u202e"
    new = NewCube(payload=ExplicitPayload(content=[Item(text=said)]))
    made = system.vault.create(principal("alice"), new)
    at = {"person": "alice", "cube": made.meta.id, "item": made.items[0].id}
    page = Browser(app, key_of(system)).get("item", **at).text

    class Area(HTMLParser):
        inside, found = False, ""

        def handle_starttag(self, tag, attrs):
            self.inside = self.inside or tag == "textarea"

        def handle_endtag(self, tag):
            self.inside = self.inside and tag != "textarea"

        def handle_data(self, data):
            self.found += data if self.inside else ""

    area = Area()
    area.feed(page)
    assert area.found == "\n" + said  # a browser drops the first end of line


VALUES = (
    *("", "x", "0", "-1", "1e9", str(2**63), str(2**70), "true", "null", "../../x", "a/b", "a%2Fb"),
    *("a\x00b", "a\nb", "\u202e", "😀", "\ufeff", "<script>", "' OR 1=1 --", "{{7*7}}", "y" * 5000),
    *("2020-01-01", "0000-00-00", "9999-12-31", "2020-01-01T00:00:00+00:00", "frozen", "items"),
)
EACH = 5
"""Of these values, for each parameter of each route, in turn."""


def parameters(route):
    """Names of a route's query parameters and fields."""
    found, waiting = set(), [route.dependant]
    while waiting:
        one = waiting.pop()
        found |= {each.alias for each in (*one.query_params, *one.body_params)}
        waiting += one.dependencies
    return found


def test_no_value_of_any_parameter_is_an_error_of_the_server(system, app):
    browser = Browser(app, key_of(system))
    routes = [route for route in app.routes if isinstance(route, ConsoleRoute)]
    assert len(routes) > 35
    small = NewCube(payload=ExplicitPayload(content=[Item(text="Alice likes tea.")]))
    meta = system.create(principal("alice"), [small])[0].meta
    sound = {"person": "alice", "cube": meta.id, "version": meta.version, "what": "text"}
    sound |= {"item": "item_1", "subject": "tea", "state": "archived", "permissions": "read"}
    token = {"form_token": token_in(browser.get("").text)}
    values = itertools.cycle(VALUES)
    for route in routes:
        if route.path.endswith(("{name}", "{rest:path}", "sign-out", "sign-in")):
            continue
        path = route.path.removeprefix("/memory").lstrip("/")
        names = sorted(parameters(route))
        given = {name: sound.get(name, "x") for name in names}
        for name, value in ((name, next(values)) for name in names for _ in range(EACH)):
            fields = {**given, name: value}
            at = {each: fields.pop(each) for each in ("person", "cube", "item") if each in fields}
            if "POST" in route.methods:
                reply = browser.http.post(address(path, at), data=fields | token)
            else:
                reply = browser.get(path, **fields, **at)
            assert reply.status_code < 500, (path, name, value)
