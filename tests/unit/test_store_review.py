"""MemStore: ways around readers, quarantine, price and end of a bundle."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    Placement,
)
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import Conflict, Forbidden, NotFound, TooLarge, Unprocessable
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.learning.sweep import Sweep
from memos_vllm.memstore.entitlement import MEDIA, issue, read
from memos_vllm.memstore.follow import Following
from memos_vllm.memstore.model import INDEX, MANIFEST_BYTES, Manifest, descriptor
from memos_vllm.memstore.package import _items
from memos_vllm.memstore.publish import About, publish
from memos_vllm.memstore.serve import create_app
from memos_vllm.transforms.requests import Distill
from memos_vllm.transforms.sources import read_sources
from memos_vllm.transforms.submit import distill
from memos_vllm.vault.ageing import sweep_of
from memos_vllm.vault.grants import Subject
from tests.adapters import small
from tests.bundles import ADMIN, HOURS, NAME, PUBLISHER, Bundler, config_of
from tests.conftest import principal
from tests.http_server import served
from tests.unit.test_store_install import found

ALICE, BOB = principal("alice"), principal("bob")
HOURS_CUBE = f"{NAME}:hours"


@pytest.fixture
def config(tmp_path, database_url):
    return config_of(tmp_path, database_url)


def ends_in(**time_left):
    return to_datetime(now_us()) + timedelta(**time_left)


@pytest.mark.parametrize(
    "subject", [Subject(SubjectKind.TENANT), Subject(SubjectKind.PERSON, "bob")]
)
def test_a_grant_gives_a_bundle_to_no_more_people_than_its_seats(bundler, system, subject):
    bundler.publish(price="10 EUR")
    bundler.install()
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", 1, None), readers=["alice"])
    with pytest.raises(Conflict, match="belongs to the bundle"):
        system.grants.put(ADMIN, HOURS_CUBE, subject, Effect.ALLOW, [Permission.USE])
    assert found(system, BOB) == []
    assert found(system, ALICE)


def test_an_erased_person_is_no_reader_of_a_bundle_any_more(bundler, system):
    bundler.publish()
    bundler.install(readers=["alice", "bob"])
    bundler.approve()
    Eraser(system).request(ADMIN, "alice")
    assert system.bundles.get("acme", NAME).readers == ("bob",)
    bundler.publish("1.1.0", {"late": ["The shop opens late in August."]})
    bundler.update()
    assert found(system, BOB)
    assert system.vault.get(ADMIN, f"{NAME}:late").meta.access.readers == ["bob"]


def test_what_is_quarantined_is_read_by_admins_alone(bundler, system):
    """So it is neither learnt by an adapter nor fetched by an agent."""
    bundler.publish()
    bundler.install()
    bundler.publish("1.1.0", {"hours": HOURS, "late": ["The shop opens late in August."]})
    bundler.update()
    for cube in ("hours", "late"):
        with pytest.raises(NotFound):
            system.vault.get(ALICE, f"{NAME}:{cube}")
        assert system.vault.get(ADMIN, f"{NAME}:{cube}").items
    bundler.approve()
    assert system.vault.get(ALICE, f"{NAME}:late").items
    assert found(system, ALICE)


def test_no_adapter_is_trained_on_a_bundle_that_has_ended(bundler, system):
    bundler.publish(price="10 EUR")
    bundler.install()
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, ends_in(seconds=1)))
    assert read_sources(system.vault, ADMIN, [HOURS_CUBE]).ids
    time.sleep(1.1)
    with pytest.raises(Unprocessable, match="expired"):
        read_sources(system.vault, ADMIN, [HOURS_CUBE])


def test_what_has_ended_is_read_by_admins_alone(bundler, system):
    """Neither searched nor fetched by its id or name."""
    bundler.publish(price="10 EUR")
    bundler.install()
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, ends_in(seconds=1)))
    cube = system.vault.get(ALICE, HOURS_CUBE).meta.id
    time.sleep(1.1)
    for ref in (HOURS_CUBE, cube):
        for way in (system.vault.get, system.vault.file, system.vault.history):
            with pytest.raises(NotFound):
                way(ALICE, ref)
        assert system.vault.get(ADMIN, ref).items
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, None))
    assert system.vault.get(ALICE, HOURS_CUBE).items


def test_an_approval_during_an_update_does_not_approve_its_price(bundler, system, monkeypatch):
    bundler.publish()
    bundler.install()
    bundler.publish("2.0.0", {"hours": ["Now for money."]}, price="1 EUR")
    apply = system.bundles.apply

    def later(*arguments):
        bundler.approve()
        return apply(*arguments)

    monkeypatch.setattr(system.bundles, "apply", later)
    with pytest.raises(Forbidden, match="has a price"):
        bundler.update()
    assert bundler.texts()[HOURS_CUBE] == HOURS


def test_an_update_during_an_approval_does_not_get_it(bundler, system, monkeypatch):
    bundler.publish()
    bundler.install()
    before = system.bundles.get("acme", NAME)
    bundler.publish("2.0.0", {"hours": ["Now for money."]}, price="1 EUR")
    digest = bundler.update().bundle.digest
    get = system.bundles.get
    monkeypatch.setattr(system.bundles, "get", lambda *_: before)
    with pytest.raises(Conflict, match="changed meanwhile"):
        bundler.approve(digest=digest)
    assert get("acme", NAME).state is BundleState.QUARANTINED


def test_the_first_installation_decides_whose_a_bundle_is(bundler, system, tmp_path, monkeypatch):
    """Also when another one has begun before it."""
    another = Bundler(system, tmp_path / "another")
    bundler.publish()
    another.publish("9.0.0", {"hours": ["Pay here."]})
    apply = system.bundles.apply

    def later(*arguments):
        monkeypatch.undo()
        bundler.install()
        bundler.store.uninstall(ADMIN, NAME)
        return apply(*arguments)

    monkeypatch.setattr(system.bundles, "apply", later)
    with pytest.raises(Conflict, match="another publisher"):
        another.install()
    assert bundler.texts() == {}


def sign_index(bundler, **fields):
    """An index of the publisher's own making, in place of the signed one."""
    versions = bundler.catalogue().show(NAME).index.versions
    base = {"name": NAME, "serial": 7, "issued": "2026-01-01", "versions": versions}
    signed = bundler.key.sign(json.dumps({**base, **fields}).encode(), INDEX)
    bundler.registry.put_blob(NAME, signed)
    made = Manifest(
        artifact_type=INDEX, config=descriptor(b"{}", "x"), layers=[descriptor(signed, INDEX)]
    ).model_copy(update={"annotations": {"dev.memos.publisher": bundler.key.public.hex}})
    data = json.dumps(made.model_dump(mode="json")).encode()
    bundler.registry.put_manifest(NAME, "index", data)


def test_an_index_without_a_zone_is_of_utc(bundler, system):
    bundler.publish()
    bundler.install(follow=Follow.AUTO)
    sign_index(bundler, issued="2026-01-01T00:00:00", expires="2026-01-02T00:00:00")
    with pytest.raises(Unprocessable, match="has expired"):
        bundler.check()
    Following(system).job("all")
    sign_index(bundler, issued="2026-01-01T00:00:00", expires="9000-01-02T00:00:00")
    assert bundler.check() is None
    sign_index(bundler, issued="0001-01-01T00:00:00", expires="9999-12-31T23:59:59-23:59")
    with pytest.raises(Unprocessable, match="index of"):
        bundler.check()


@pytest.mark.parametrize("ends", ["2026-01-01T00:00:00", "9999-12-31T23:59:59-23:59"])
def test_an_entitlement_with_an_odd_end_is_refused(bundler, ends):
    content = {"bundle": NAME, "tenant": "acme", "issued": "2026-01-01T00:00:00", "expires": ends}
    text = bundler.key.sign(json.dumps(content).encode(), MEDIA).decode()
    with pytest.raises((Forbidden, Unprocessable)):
        read(text, bundler.key.public, NAME, "acme", bundler.store.server_id())


def test_lines_beyond_the_most_items_are_not_parsed():
    assert len(_items(b'{"text": "A"}\r\n' * 10, "x", 10)) == 10
    assert _items(b"", "x", 10) == []
    with pytest.raises(TooLarge, match="items_per_cube"):
        _items(b"[\n" * 11, "x", 10)


def test_a_new_place_in_prompts_is_part_of_the_difference(bundler, system):
    bundler.publish()
    bundler.install(follow=Follow.APPROVE)
    system.update(PUBLISHER, "hours", CubePatch(placement=Placement.STABLE, tags=["always"]))
    bundler.publish("1.1.0")
    (shown,) = bundler.check().differences
    assert (shown.cube, shown.change) == ("hours", "changed")
    assert list(shown.added) == ["placement: stable", "tag: always"]
    assert list(shown.removed) == ["placement: retrieved"]
    assert [each.cube for each in bundler.update().differences] == ["hours"]


def test_a_publisher_keeps_the_name_that_an_admin_gave_it(bundler, system):
    bundler.publish()
    key = bundler.key.public
    system.publishers.trust(ADMIN, key.fingerprint, key.hex, "Acme")
    bundler.install()
    assert [each.label for each in system.publishers.all("acme")] == ["Acme"]


def test_a_bundle_whose_cubes_were_deleted_after_its_end_is_renewed_whole(bundler, system):
    bundler.publish(price="10 EUR")
    bundler.install()
    bundler.approve(entitlement=issue(bundler.key, NAME, "acme", None, ends_in(seconds=1)))
    time.sleep(1.1)
    bundler.publish("1.1.0", {"hours": ["The shop opens at eight."]}, price="10 EUR")
    with pytest.raises(Conflict, match="entitlement of handbook has ended"):
        bundler.update()
    list(Sweep(system).run())
    for cube, _ in system.bundles.get("acme", NAME).cubes.values():
        system.delete(sweep_of("acme"), cube)  # as the policy's `expired_days` has it
    assert bundler.texts() == {}
    renewed = issue(bundler.key, NAME, "acme", None, None)
    with pytest.raises(Conflict, match=r"memos store update handbook --version 1\.0\.0"):
        bundler.approve(entitlement=renewed)
    assert bundler.update("1.0.0").bundle.history == ()
    assert found(system, ALICE) == []
    bundler.approve(entitlement=renewed)
    assert found(system, ALICE)
    with pytest.raises(Conflict, match="is installed"):
        bundler.update("1.0.0")


def test_no_training_is_queued_into_an_adapter_of_a_bundle(bundler, system):
    bundler.publish(contents={"hours": HOURS, "style": small()})
    bundler.install()
    bundler.approve()
    own = NewCube(meta=NewMeta(name="own", shared=True), payload=ExplicitPayload(content="Own."))
    system.create(ADMIN, [own])
    with pytest.raises(Conflict, match="belongs to the bundle"):
        distill(system, ADMIN, "own", Distill(into=f"{NAME}:style"))


def test_a_folder_sends_no_manifest_beyond_the_limit(bundler):
    bundler.publish()
    entries = json.loads((bundler.folder / NAME / "index.json").read_text())["manifests"]
    for entry in entries:
        bundler.registry.path(NAME, entry["digest"]).write_bytes(b" " * (MANIFEST_BYTES + 1))
    with pytest.raises(Unprocessable, match="manifest of more than"):
        bundler.registry.manifest(NAME, "index")


def test_a_page_size_of_a_thousand_digits_is_a_page_size(bundler):
    bundler.publish()
    with served(create_app(bundler.folder)) as url:
        reply = httpx.get(f"{url}/v2/_catalog", params={"n": "9" * 5000})
    assert reply.json() == {"repositories": [NAME]}


def test_another_time_or_claim_of_a_text_is_part_of_the_difference(bundler, system):
    """The same words about another day are another memory."""
    bundler.publish(contents={"hours": HOURS})
    bundler.install()
    first, second = HOURS
    claim = Claim(subject="the shop", attribute="opens", value="at nine")
    items = [
        Item(text=first, claim=claim),
        Item(text=second, time=datetime(2026, 5, 1, tzinfo=UTC)),
    ]
    system.update(PUBLISHER, "hours", CubePatch(payload=ExplicitPayload(content=items)))
    said = About(NAME, "1.1.0", "CC-BY-4.0")
    publish(system, PUBLISHER, bundler.registry, bundler.key, said, ["hours"])
    (shown,) = bundler.check().differences
    assert shown.removed == [f"{each} [type: passage]" for each in HOURS]
    assert "value: at nine" in shown.added[0]
    assert "time: 2026-05-01" in shown.added[1]
