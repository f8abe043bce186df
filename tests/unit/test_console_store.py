"""The console's store: bundles are looked at, approved, updated with their difference, and removed."""

from __future__ import annotations

import html

import pytest

from memos_vllm.cube.model import State
from memos_vllm.governance.principal import Role
from tests.adapters import small
from tests.bundles import ADMIN, HOURS, NAME
from tests.conftest import make_config
from tests.console import Browser, console_app, key_of
from tests.unit.test_console_hostile import SCRIPT, Elements


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, store={"registries": {"team": str(tmp_path / "registry")}})


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def browser(app, system):
    return Browser(app, key_of(system))


def installed(browser, bundler):
    fields = {
        "name": NAME,
        "registry": "team",
        "publisher": bundler.key.public.fingerprint,
    }
    reply = browser.post("store/install", fields)
    assert reply.status_code == 200, reply.text
    return reply.text


def test_a_bundle_is_found_installed_approved_updated_and_removed(browser, bundler, system):
    bundler.publish(description="The shop's handbook")
    page = browser.get("store", look="true", registry="team", q="shop").text
    assert "handbook" in page
    assert "not trusted here" in page
    assert html.escape(HOURS[0]) in installed(browser, bundler)
    page = browser.get("bundle", bundle=NAME).text
    assert "no prompt holds it" in page
    seen = browser.hidden("bundle", bundle=NAME)["seen"]
    approved = browser.post("bundle/approve", {"seen": seen, "readers": "alice\nbob"}, bundle=NAME)
    assert approved.status_code == 303
    assert system.bundles.get("acme", NAME).readers == ("alice", "bob")
    browser.post("bundle/follow", {"follow": "approve"}, bundle=NAME)
    current = browser.post("bundle/look", {}, bundle=NAME)
    assert "no newer version" in browser.http.get(current.headers["location"]).text
    bundler.publish("1.1.0", {"hours": [HOURS[0], "Open on Sunday."]})
    offer = browser.post("bundle/look", {}, bundle=NAME).text
    assert f"<del><bdi>{HOURS[1]}</bdi></del>" in offer
    assert "<ins><bdi>Open on Sunday.</bdi></ins>" in offer
    assert browser.post("bundle/update", {"version": "1.1.0"}, bundle=NAME).status_code == 303
    assert "1.1.0" in browser.get("store").text
    assert browser.post("bundle/rollback", {}, bundle=NAME).status_code == 303
    assert system.bundles.get("acme", NAME).version == "1.0.0"
    stale = browser.post("bundle/remove", {"seen": "sha256:" + "0" * 64}, bundle=NAME)
    assert stale.status_code == 409
    receipt = browser.post("bundle/remove", {"seen": seen}, bundle=NAME)
    assert "memos-uninstall-receipt-1" in receipt.text
    assert bundler.texts() == {}


def test_what_a_publisher_says_is_shown_inert(browser, bundler):
    bundler.publish(
        contents={"<b>hours": [SCRIPT, "L" * 100_000]},
        description=SCRIPT,
        authors=[SCRIPT],
        terms=SCRIPT,
        price=SCRIPT,
    )
    pages = [
        browser.get("store", look="true", registry="team").text,
        installed(browser, bundler),
        browser.get("bundle", bundle=NAME).text,
    ]
    for page in pages:
        elements = Elements()
        elements.feed(page)
        assert elements.bad == []
        assert len(elements.scripts) == 1


def test_the_exam_of_an_adapter_is_shown_and_may_be_waived(browser, bundler, system):
    bundler.publish(contents={"style": small()})
    installed(browser, bundler)
    seen = browser.hidden("bundle", bundle=NAME)["seen"]
    browser.post("bundle/approve", {"seen": seen}, bundle=NAME)
    page = browser.get("bundle", bundle=NAME).text
    assert "Exams of its adapters" in page
    assert "<td>waiting</td>" in page
    cube = system.bundles.get("acme", NAME).cubes["style"][0]
    assert system.vault.get(ADMIN, cube).meta.state is State.GENERATED
    browser.post("bundle/approve", {"seen": seen, "trust_adapters": "true"}, bundle=NAME)
    assert "<td>trusted</td>" in browser.get("bundle", bundle=NAME).text
    assert system.vault.get(ADMIN, cube).meta.state is State.ACTIVATED


def test_a_bundle_that_is_not_approved_by_its_look_is_not_approved(browser, bundler):
    bundler.publish()
    installed(browser, bundler)
    wrong = browser.post("bundle/approve", {"seen": "sha256:" + "0" * 64}, bundle=NAME)
    assert wrong.status_code == 409
    assert "quarantined" in browser.get("store").text


@pytest.mark.parametrize("role", [Role.READER, Role.WRITER])
def test_other_roles_have_no_store(app, system, bundler, role):
    bundler.publish()
    bundler.install()
    browser = Browser(app, key_of(system, role))
    assert ">Store<" not in browser.get("").text
    for path in ("store", "bundle"):
        assert browser.get(path, bundle=NAME).status_code == 403
    actions = {
        "store/install": {"name": NAME},
        "bundle/approve": {"seen": "sha256:" + "0" * 64},
        "bundle/look": {},
        "bundle/update": {"version": "1.0.0"},
        "bundle/rollback": {},
        "bundle/follow": {"follow": "auto"},
        "bundle/remove": {"seen": "sha256:" + "0" * 64},
    }
    for path, fields in actions.items():
        assert browser.post(path, fields, bundle=NAME).status_code == 403, path


def test_another_tenant_does_not_see_it(app, system, bundler):
    bundler.publish()
    bundler.install()
    other = Browser(app, key_of(system, tenant="other"))
    assert "No bundle is installed" in other.get("store").text
    assert other.get("bundle", bundle=NAME).status_code == 404


def test_a_registry_that_is_not_configured_is_no_address(browser, tmp_path):
    for registry in (str(tmp_path), "http://127.0.0.1:1", "file:///etc"):
        assert browser.get("store", look="true", registry=registry).status_code == 400
        reply = browser.post("store/install", {"name": NAME, "registry": registry})
        assert reply.status_code == 400
