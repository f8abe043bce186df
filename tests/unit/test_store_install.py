"""MemStore: what a bundle brings is there whole, used only when approved, changed only with the bundle."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import timedelta

import pytest

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta, State
from memos_vllm.errors import Conflict, Forbidden, NotFound, Unprocessable, VaultUnavailable
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Role
from memos_vllm.learning.lifecycle import merge
from memos_vllm.learning.sweep import Sweep
from memos_vllm.memstore.entitlement import issue
from memos_vllm.memstore.follow import Following
from memos_vllm.memstore.signing import PublisherKey
from memos_vllm.memstore.store import RECEIPT
from memos_vllm.vault.bundle_guard import changing
from tests.adapters import small
from tests.bundles import ADMIN, HOURS, NAME, config_of
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")


@pytest.fixture
def config(tmp_path, database_url):
    return config_of(tmp_path, database_url)


def found(system, who, question="When does the shop open?"):
    """Texts that a person's chat could be given."""
    vector = asyncio.run(system.embed_question(who, question))
    return [each.recalled.item.text for each in system.search(who, question, vector, 5).found]


def test_a_bundle_is_installed_quarantined_and_used_when_it_is_approved(bundler, system):
    bundler.publish(description="The shop's handbook")
    done = bundler.install()
    assert done.bundle.state is BundleState.QUARANTINED
    assert {each.cube: each.change for each in done.differences} == {
        "hours": "added",
        "returns": "added",
    }
    assert bundler.texts()[f"{NAME}:hours"] == HOURS
    assert found(system, ALICE) == []
    bundler.approve()
    assert HOURS[0] in found(system, ALICE)
    assert HOURS[0] not in found(system, principal("mallory", "other"))


def test_readers_of_a_bundle_are_the_only_ones_who_get_it(bundler, system):
    bundler.publish()
    bundler.install(readers=["alice"])
    bundler.approve()
    assert found(system, ALICE)
    assert found(system, BOB) == []
    bundler.approve(readers=["bob"])
    assert found(system, BOB)
    assert found(system, ALICE) == []
    bundler.publish("1.1.0", {"hours": HOURS, "extra": ["The shop opens late in August."]})
    bundler.update()
    assert "The shop opens late in August." in found(system, BOB)
    assert found(system, ALICE) == []


def change(system, ref):
    system.update(ADMIN, ref, CubePatch(append=[Item(text="The shop opens at ten.")]))


def activate(system, ref):
    system.update(ADMIN, ref, CubePatch(state=State.ACTIVATED))


@pytest.mark.parametrize(
    "act",
    [
        change,
        activate,
        lambda system, ref: system.delete(ADMIN, ref),
        lambda system, ref: system.update(ADMIN, ref, CubePatch(name="mine")),
        lambda system, ref: system.rollback(ADMIN, ref, system.vault.get(ADMIN, ref).meta.version),
    ],
    ids=["append", "activate", "delete", "rename", "rollback"],
)
def test_a_cube_of_a_bundle_changes_with_the_bundle_alone(bundler, system, act):
    bundler.publish()
    bundler.install()
    with pytest.raises(Conflict, match=f"belongs to the bundle {NAME}"):
        act(system, f"{NAME}:hours")
    assert bundler.texts()[f"{NAME}:hours"] == HOURS
    assert found(system, ALICE) == []


def test_a_cube_of_a_bundle_is_not_merged_into_another_not_even_halfway(bundler, system):
    bundler.publish()
    bundler.install()
    bundler.approve()
    new = NewCube(meta=NewMeta(name="own", shared=True), payload=ExplicitPayload(content="Own."))
    own = system.create(ADMIN, [new])[0].meta.id
    for source, into in ((f"{NAME}:hours", own), (own, f"{NAME}:hours")):
        with pytest.raises(Conflict, match=f"belongs to the bundle {NAME}"):
            merge(system, ADMIN, source, into)
    assert bundler.texts() == {
        "own": ["Own."],
        f"{NAME}:hours": HOURS,
        f"{NAME}:returns": ["Returns within 30 days."],
    }


def test_an_update_shows_its_difference_item_by_item_and_keeps_what_people_added(bundler, system):
    bundler.publish()
    bundler.install(follow=Follow.APPROVE)
    bundler.approve()
    own = NewCube(payload=ExplicitPayload(content="The shop gives me credit."))
    system.create(ALICE, [own])
    before = system.vault.get(ADMIN, f"{NAME}:hours").meta.version
    bundler.publish("1.1.0", {"hours": [HOURS[0], "Open on Sunday."], "new": ["We ship."]})
    offer = bundler.check()
    assert offer.bundle.version == "1.0.0"
    assert offer.bundle.offered == "1.1.0"
    shown = {
        each.cube: (each.change, list(each.added), list(each.removed)) for each in offer.differences
    }
    assert shown == {
        "hours": ("changed", ["Open on Sunday."], [HOURS[1]]),
        "new": ("added", ["We ship."], []),
        "returns": ("removed", [], ["Returns within 30 days."]),
    }
    assert bundler.texts()[f"{NAME}:hours"] == HOURS, "an offer changes nothing"
    done = bundler.update()
    assert done.bundle.version == "1.1.0"
    assert done.bundle.state is BundleState.ACTIVE
    assert bundler.texts() == {
        f"{NAME}:hours": [HOURS[0], "Open on Sunday."],
        f"{NAME}:new": ["We ship."],
    }
    assert before in [v.id for v in system.vault.history(ADMIN, f"{NAME}:hours")]
    assert "The shop gives me credit." in found(system, ALICE, "Does the shop give credit?")
    back = bundler.store.rollback(ADMIN, bundler.registry, NAME)
    assert back.bundle.version == "1.0.0"
    assert bundler.texts()[f"{NAME}:returns"] == ["Returns within 30 days."]
    assert bundler.check() is None, "a version that was taken back is not offered again"


def test_a_bundle_that_follows_by_itself_is_updated_by_the_server(bundler, system):
    bundler.publish()
    bundler.install(follow=Follow.AUTO)
    bundler.approve()
    bundler.publish("1.0.1", {"hours": ["The shop opens at eight."]})
    Following(system).job("all")
    assert bundler.texts() == {f"{NAME}:hours": ["The shop opens at eight."]}
    # Other terms are the tenant's to accept.
    bundler.publish("1.1.0", {"hours": ["Open always."]}, terms="No more than ten people.")
    Following(system).job("all")
    assert system.bundles.get("acme", NAME).offered == "1.1.0"
    assert bundler.texts() == {f"{NAME}:hours": ["The shop opens at eight."]}


def test_a_damaged_registry_costs_a_following_bundle_nothing(bundler, system, tmp_path):
    bundler.publish()
    bundler.install(follow=Follow.AUTO)
    (bundler.folder / NAME / "index.json").write_text("[")
    Following(system).job("all")
    assert bundler.texts()[f"{NAME}:hours"] == HOURS


def test_uninstalling_leaves_nothing_and_says_so_in_a_signed_receipt(bundler, system):
    bundler.publish(contents={"hours": HOURS, "style": small()})
    bundler.install()
    bundler.approve()
    assert found(system, ALICE)
    receipt = bundler.store.uninstall(ADMIN, NAME)
    stores = {each["store"]: (each["before"], each["after"]) for each in receipt["stores"]}
    assert stores["cubes"] == (2, 0)
    assert stores["vectors"][0] == 2
    assert stores["payload_files"][0] >= 2
    assert all(after == 0 for _, after in stores.values())
    assert receipt["complete"]
    key = receipt["public_key"]
    assert receipts.signature_problems(receipt, RECEIPT, public=key, pinned=None) == []
    receipt["bundle"] = "other"
    assert receipts.signature_problems(receipt, RECEIPT, public=key, pinned=None)
    assert bundler.texts() == {}
    assert found(system, ALICE) == []
    with pytest.raises(NotFound):
        system.bundles.get("acme", NAME)
    assert bundler.install().bundle.version == "1.0.0", "it can be installed again"


def test_an_adapter_in_a_bundle_is_packed_checked_and_equal(bundler, system):
    content = small()
    bundler.publish(contents={"style": content})
    bundler.install()
    theirs = system.vault.file(dataclasses.replace(ADMIN, tenant="publisher"), "style")
    assert system.vault.file(ADMIN, f"{NAME}:style") == theirs


def test_a_bundle_with_a_price_is_used_with_an_entitlement_and_ends_with_it(
    bundler, system, monkeypatch
):
    bundler.publish(price="10 EUR a month")
    bundler.install()
    with pytest.raises(Forbidden, match="10 EUR"):
        bundler.approve()
    ends = to_datetime(now_us()) + timedelta(days=30)
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, ends))
    assert found(system, ALICE)
    later = now_us() + 31 * 86_400_000_000
    for module in ("vault.records", "plaintext.search.search", "vault.views"):
        monkeypatch.setattr(f"memos_vllm.{module}.now_us", lambda: later, raising=False)
    assert found(system, ALICE) == [], "it ends by itself, at the next request"
    monkeypatch.undo()


def test_an_entitlement_that_ended_is_renewed(bundler, system):
    bundler.publish(price="10 EUR")
    bundler.install()
    soon = to_datetime(now_us()) + timedelta(seconds=1)
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, soon))
    time.sleep(1.2)
    list(Sweep(system).run())
    assert system.vault.get(ADMIN, f"{NAME}:hours").meta.state is State.EXPIRED
    assert found(system, ALICE) == []
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, None))
    assert found(system, ALICE)


@pytest.mark.parametrize(
    ("bundle", "tenant", "days", "own_key"),
    [
        ("other", "acme", 1, True),
        (NAME, "other", 1, True),
        (NAME, "acme", -1, True),
        (NAME, "acme", 1, False),
    ],
    ids=["another bundle", "another tenant", "ended", "another key"],
)
def test_an_entitlement_of_another_or_by_another_is_refused(
    bundler, system, tmp_path, bundle, tenant, days, own_key
):
    bundler.publish(price="10 EUR")
    bundler.install()
    key = bundler.key if own_key else PublisherKey.create(tmp_path / "other")
    text = issue(key, bundle, tenant, None, to_datetime(now_us()) + timedelta(days=days))
    with pytest.raises(Forbidden):
        bundler.approve(entitlement=text)
    assert found(system, ALICE) == []


def test_an_entitlement_for_one_server_holds_there_alone(bundler, system):
    """Every server has a tenant `local`."""
    bundler.publish(price="10 EUR")
    bundler.install()
    elsewhere = issue(bundler.key, NAME, "acme", None, None, "0" * 32)
    with pytest.raises(Forbidden, match="for the server 000"):
        bundler.approve(entitlement=elsewhere)
    here = issue(bundler.key, NAME, "acme", None, None, bundler.store.server_id())
    bundler.approve(entitlement=here)
    assert found(system, ALICE)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"payload": 1}', "x" * 10_000])
def test_what_is_no_entitlement_is_refused(bundler, text):
    bundler.publish(price="10 EUR")
    bundler.install()
    with pytest.raises(Unprocessable):
        bundler.approve(entitlement=text)


def test_seats_are_people_by_name(bundler, system):
    bundler.publish(price="10 EUR")
    bundler.install()
    text = issue(bundler.key, NAME, "acme", 1, None)
    for readers in (None, ["alice", "bob"]):
        with pytest.raises(Forbidden, match="1 seats"):
            bundler.approve(entitlement=text, readers=readers)
    bundler.approve(entitlement=text, readers=["alice"])
    assert found(system, ALICE)
    assert found(system, BOB) == []


def test_a_free_bundle_that_gets_a_price_needs_an_entitlement_to_go_on(bundler):
    bundler.publish()
    bundler.install(follow=Follow.AUTO)
    bundler.approve()
    bundler.publish("2.0.0", {"hours": ["Now for money."]}, price="1 EUR")
    with pytest.raises(Forbidden, match="has a price"):
        bundler.update()
    assert bundler.texts()[f"{NAME}:hours"] == HOURS


def test_only_an_admin_changes_bundles(bundler):
    bundler.publish()
    for role in (Role.READER, Role.WRITER):
        who = principal("alice", role=role)
        with pytest.raises(Forbidden):
            bundler.install(who=who)
        with pytest.raises(Forbidden):
            bundler.store.approve(who, NAME)
        with pytest.raises(Forbidden):
            bundler.store.uninstall(who, NAME)
        with pytest.raises(Forbidden):
            bundler.system.publishers.trust(who, "a" * 64, "b" * 64, "x")


def test_tenants_install_and_trust_apart(bundler, system):
    bundler.publish()
    other = principal("", "other", Role.ADMIN)
    bundler.install()
    with pytest.raises(Forbidden):
        bundler.store.install(other, "team", bundler.registry, NAME)
    with pytest.raises(NotFound):
        bundler.store.approve(other, NAME)
    with pytest.raises(NotFound):
        bundler.store.uninstall(other, NAME)
    assert system.bundles.all("other") == []


def test_a_name_that_the_tenant_uses_stops_the_whole_installation(bundler, system):
    bundler.publish()
    own = NewCube(
        meta=NewMeta(name=f"{NAME}:returns", shared=True), payload=ExplicitPayload(content="Ours.")
    )
    system.create(ADMIN, [own])
    with pytest.raises(Conflict, match="with the name of one"):
        bundler.install()
    assert bundler.texts() == {f"{NAME}:returns": ["Ours."]}
    assert system.bundles.all("acme") == []


def test_a_frozen_cube_stops_the_whole_uninstallation(bundler, system):
    bundler.publish()
    bundler.install()
    bundler.approve()
    with system.database.write() as session, changing(session):
        hold = CubePatch(state=State.FROZEN, reason="case 7")
        system.vault.update_in(session, ADMIN, f"{NAME}:returns", hold)
    with pytest.raises(Conflict, match="frozen"):
        bundler.store.uninstall(ADMIN, NAME)
    assert set(bundler.texts()) == {f"{NAME}:hours", f"{NAME}:returns"}


def test_use_is_metered_by_day_and_stays_after_the_bundle_is_gone(bundler, system):
    bundler.publish()
    done = bundler.install()
    bundler.approve()
    cubes = {cube: 7 for cube, _ in done.bundle.cubes.values()}
    system.bundle_usage.count(cubes)
    system.bundle_usage.count({next(iter(cubes)): 5, "cube_unknown": 3})
    bundler.store.uninstall(ADMIN, NAME)
    (row,) = system.bundle_usage.by_day("acme")
    assert (row.bundle, row.version, row.requests, row.tokens) == (NAME, "1.0.0", 2, 19)
    assert system.bundle_usage.by_day("acme", "9999-01-01") == []
    assert system.bundle_usage.by_day("other") == []


@pytest.mark.parametrize("act", ["install", "update"])
def test_a_disk_that_is_full_in_the_middle_leaves_what_was_there(bundler, system, act, monkeypatch):
    bundler.publish()
    if act == "update":
        bundler.install()
        bundler.publish("1.1.0", {"hours": ["Open always."], "returns": ["Never."]})
    before = bundler.texts()
    put, calls = system.payloads.put, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise VaultUnavailable("cannot write a payload: No space left on device")
        return put(*arguments)

    monkeypatch.setattr(system.payloads, "put", full)
    with pytest.raises(VaultUnavailable):
        bundler.install() if act == "install" else bundler.update()
    monkeypatch.undo()
    assert bundler.texts() == before
    bundler.install() if act == "install" else bundler.update()
    assert bundler.texts() != before


def test_an_admin_who_acts_for_a_person_manages_bundles_of_other_readers(bundler, system):
    carol = principal("carol", role=Role.ADMIN)
    bundler.publish()
    bundler.install(who=carol, readers=["alice"])
    bundler.store.approve(carol, NAME)
    assert found(system, ALICE)
    assert found(system, principal("carol")) == []
    bundler.publish("1.1.0", {"hours": ["The shop opens at eight."]})
    done = bundler.store.update(carol, bundler.registry, NAME)
    assert [each.change for each in done.differences] == ["changed", "removed"]
    assert bundler.store.uninstall(carol, NAME)["complete"]
