"""The console in real Chromium: pages at two widths, light and dark, with the keyboard alone, under its policy."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from memos_vllm.api.app import create_app
from memos_vllm.console.app import attach
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.principal import Role
from memos_vllm.learning.feedback import Feedback
from tests import chromium
from tests.conftest import principal
from tests.console import FakeChat, entry, key_of, store_plan
from tests.http_server import served

ALICE = principal("alice")
ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ.get("MEMOS_TEST_SCREENSHOTS", ROOT / "artifacts" / "screenshots"))
"""Folder for pictures of the pages, which a CI keeps."""
PAGES = (
    *("", "people", "person?person=alice", "person/facts?person=alice"),
    *("person/cubes?person=alice", "person/search?person=alice&q=tea", "forget?person=alice"),
    *(
        "forget?person=alice&subject=my+cat",
        "plans",
        "plan?request=chatcmpl-1&person=alice",
        "cost",
    ),
    *("access?person=alice", "access/erase?person=alice", "keys", "groups", "policy", "audit"),
    *(
        "erasures",
        "store",
        "try?person=alice",
        "person?person=alice&day=2020-02-03",
        "restore?person=alice&day=2020-02-03",
    ),
)

AXE = "axe-core@4.14.1"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

pytestmark = pytest.mark.skipif(
    chromium.executable() is None,
    reason="Chromium is not installed (Debian: apt-get install chromium)",
)


@pytest.fixture
def browser(tmp_path):
    program = chromium.executable()
    assert program is not None
    opened = chromium.Chromium(program, tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture
def cube(system):
    content = [
        Item(text="Alice likes oolong tea."),
        Item(text="<script>alert(1)</script> \u202egpj.exe مرحبا"),
        Item(text="W" * 100_000),
    ]
    meta = NewMeta(name="<img src=x onerror=alert(1)>", tags=["<b>"])
    made = system.create(ALICE, [NewCube(meta=meta, payload=ExplicitPayload(content=content))])[0]
    Feedback(system).say(ALICE, "My cat is called Miso.")
    for number in range(30):
        item = made.items[number % 2]
        store_plan(
            system,
            f"chatcmpl-{number}",
            entries=(
                entry(made.meta.id, item.id, score=0.7, signals={"bm25": 0.4, "cosine": -0.2}),
            ),
            prompt_tokens=500 + 10 * number,
            cached_tokens=300,
            injected_tokens=120,
            steps_ms={"search": 5.0 + number, "embed": 3.0, "plan": 0.5},
        )
    return made


@pytest.fixture
def url(system):
    app = create_app(system)
    attach(app)
    items = [{"id": f"item_{n}", "score": 0.5} for n in range(8)]
    FakeChat(app, {"cubes": [{"id": "cube_w", "name": "teas", "tokens": 9, "items": items}]})
    with served(app) as base:
        yield f"{base}/memory"


def sign_in(browser, url, key):
    browser.open(url)
    browser.tab_to("#key")
    browser.type(key)
    browser.submit()
    assert "Overview" in browser.text


def look(browser, name, width):
    """Checks of one page as it lies there."""
    assert browser.unnamed() == [], name
    overflow = browser.js("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, (name, width, overflow)
    assert browser.js("document.querySelectorAll('h1').length") == 1, name
    slug = re.sub(r"\W+", "-", re.sub(r"&(cube|item)=\w+", "", name)) or "overview"
    picture = SHOTS / f"{slug}-{width}.png"
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.screenshot(picture)
    assert picture.stat().st_size > 0


def test_every_page_fits_two_widths_and_keeps_its_policy(system, browser, url, cube):
    browser.resize(1280)
    sign_in(browser, url, key_of(system))
    items = [f"item?person=alice&cube={cube.meta.id}&item={each.id}" for each in cube.items[:2]]
    of_cube = [
        f"{page}?person=alice&cube={cube.meta.id}"
        for page in ("cube", "cube/versions", "cube/delete")
    ]
    for width, scheme in ((1280, "light"), (390, "dark")):
        browser.resize(width)
        browser.scheme(scheme)
        for page in (*PAGES, *items, *of_cube):
            browser.open(f"{url}/{page}" if page else url)
            look(browser, page, width)
    dark = browser.js("getComputedStyle(document.body).backgroundColor")
    browser.scheme("light")
    assert browser.js("getComputedStyle(document.body).backgroundColor") != dark
    assert browser.problems == []


def test_an_edit_a_search_and_a_forgetting_with_the_keyboard_alone(system, browser, url, cube):
    browser.resize(390)
    sign_in(browser, url, key_of(system, Role.WRITER))
    browser.tab_to("input[name=person]")
    browser.type("alice")
    browser.submit()
    assert "alice's cat is called Miso" in browser.text

    browser.tab_to("ul.facts a")
    browser.submit()
    browser.tab_to("textarea")
    browser.js("document.activeElement.select()")
    browser.type("My cat is called Tofu.")
    browser.press("Tab")
    browser.submit()
    assert "The statement is corrected" in browser.text
    assert "Tofu" in browser.text

    browser.tab_to("a[href*='person/search']")
    browser.submit()
    browser.tab_to("input[name=q]")
    browser.type("Which tea does Alice like?")
    before = browser.loads
    browser.press("Enter")
    browser.wait("document.querySelectorAll('#list ol.hits li').length > 0")
    assert browser.loads == before  # the script put the results into the page
    assert browser.js("location.search").find("Which") > 0
    assert "oolong" in browser.text

    browser.tab_to("a[href*='/forget']")
    browser.submit()
    browser.tab_to("input[name=subject]")
    browser.type("my cat")
    browser.submit()
    assert "This goes:" in browser.text
    assert "Tofu" in browser.text
    browser.tab_to("button.danger")
    browser.submit()
    assert "items lost text" in browser.text
    assert not [each for each in system.knowledge.claims(ALICE) if "cat" in each.item.text]
    browser.tab_to("main button")
    browser.submit()
    assert "What was forgotten is back." in browser.text
    assert [each for each in system.knowledge.claims(ALICE) if "Tofu" in each.item.text]

    browser.tab_to("header button")
    browser.submit()
    assert "API key" in browser.text
    assert browser.problems == []


def test_a_message_is_tried_with_the_keyboard_alone(system, browser, url, cube):
    for width in (1280, 390):
        browser.resize(width)
        if width == 1280:
            sign_in(browser, url, key_of(system, Role.WRITER))
        browser.open(f"{url}/try?person=alice")
        browser.tab_to("textarea")
        browser.type("Which tea do I like?")
        browser.tab_to("input[name=compare]")
        browser.press("Space")
        browser.tab_to("input[name=attribution]")
        browser.press("Space")
        browser.tab_to("main form button")
        browser.submit()
        assert "Oolong." in browser.text
        assert "Without memory" in browser.text
        assert "Item 8" in browser.text
        look(browser, "tried", width)
    assert browser.problems == []


def test_a_link_opens_a_persons_view_with_one_key(system, browser, url, cube):
    writer = principal("", role=Role.WRITER)
    record, _ = system.keys.create("acme", Role.WRITER)
    maker = dataclasses.replace(writer, key_id=record.id)
    scopes = ["memory.read", "memory.write", "memory.delete"]
    _, token = system.keys.tokens.create(maker, "alice", scopes, 300)
    browser.resize(390)
    browser.open(f"{url}/view?token={token}")
    browser.submit()  # the button has the focus
    assert "alice's cat is called Miso" in browser.text
    assert "own view" in browser.text
    assert token not in browser.js("location.href")
    assert browser.js("document.cookie") == ""
    assert browser.problems == []


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The program of axe-core, of npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    try:
        command = [npm, "pack", "--silent", AXE]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        pytest.skip(f"npm does not fetch {AXE}: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def faults(browser, axe):
    """(rule, impact, elements) of each serious or critical fault of the page that is open."""
    browser.js(f"{axe};0")
    options = json.dumps(
        {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]}
    )
    found = browser.call(
        "Runtime.evaluate",
        expression=f"axe.run(document, {options}).then(found => JSON.stringify(found.violations))",
        awaitPromise=True,
        returnByValue=True,
    )["result"]["value"]
    return [
        (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in json.loads(found)
        if each["impact"] in ("serious", "critical")
    ]


def test_axe_finds_a_fault_where_there_is_one(browser, axe):
    browser.open("data:text/html,<title>x</title><img src=x><p style='color:%23bbb'>pale</p>")
    assert {"image-alt", "color-contrast"} <= {rule for rule, _, _ in faults(browser, axe)}


def test_axe_finds_no_serious_fault_in_any_page(system, browser, url, cube, axe):
    browser.resize(1280)
    sign_in(browser, url, key_of(system))
    item = f"item?person=alice&cube={cube.meta.id}&item={cube.items[0].id}"
    of_cube = [
        f"{page}?person=alice&cube={cube.meta.id}"
        for page in ("cube", "cube/versions", "cube/delete")
    ]
    found = {}
    for width, scheme in ((1280, "light"), (390, "dark")):
        browser.resize(width)
        browser.scheme(scheme)
        for page in (*PAGES, item, *of_cube):
            browser.open(f"{url}/{page}" if page else url)
            if wrong := faults(browser, axe):
                found[page, width, scheme] = wrong
    assert found == {}
