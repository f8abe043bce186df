"""MemStore, for an admin: installed bundles, what a registry has, approval, updates with their difference, removal."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.api.store_models import Approval, NewBundle, Subscription
from memos_vllm.console.cubes import Field
from memos_vllm.console.visit import At, ConsoleRoute, Word, asked
from memos_vllm.cube.bundle import Follow
from memos_vllm.errors import Conflict

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
MOST_TEXTS = 50
Name = Annotated[str, Query(max_length=80, pattern=r"^[^\x00]+$")]
Seen = Annotated[str, Form(max_length=80, pattern=r"^[^\x00]*$")]
"""Digest of the version that the page has shown."""
Long = Annotated[str, Form(max_length=16_384, pattern=r"^[^\x00]*$")]


@router.get("/store")
def installed(
    visit: At, q: Word = "", registry: Word = "", look: Annotated[bool, Query()] = False
) -> HTMLResponse:
    """Installed bundles and, when asked for, those of a registry."""
    calls = visit.calls
    bundles = calls.bundles()
    found = calls.published(q, registry or None) if look else []
    return visit.page(
        "store.html",
        bundles=bundles,
        found=found,
        there={each.name for each in bundles},
        registries=sorted(visit.system.config.store.registries),
        q=q,
        registry=registry,
        look=look,
    )


@router.get("/bundle")
def bundle(visit: At, bundle: Name) -> HTMLResponse:
    """One installed bundle, and what can be done with it."""
    return visit.page("bundle.html", bundle=visit.calls.bundle(bundle), follows=list(Follow))


@router.post("/store/install")
def install(
    visit: At,
    name: Field,
    registry: Field = "",
    publisher: Field = "",
) -> Response:
    """Install the newest version of a bundle, quarantined."""
    new = asked(
        NewBundle, name=name.strip(), registry=registry or None, publisher=publisher.strip() or None
    )
    done = visit.calls.install(new)
    return visit.page("bundle_change.html", done=done, most=MOST_TEXTS, what="installed")


@router.post("/bundle/approve")
def approve(
    visit: At,
    bundle: Name,
    seen: Seen,
    readers: Long = "",
    entitlement: Long = "",
    trust_adapters: Annotated[bool, Form()] = False,
) -> Response:
    """Let the tenant, or the people of a list (one a line), use the version that the page has shown."""
    people = [line.strip() for line in readers.splitlines() if line.strip()]
    approval = asked(
        Approval,
        digest=seen,
        readers=people or None,
        entitlement=entitlement.strip() or None,
        trust_adapters=trust_adapters,
    )
    visit.calls.approve(bundle, approval)
    return visit.go("bundle", bundle=bundle, done="approved")


@router.post("/bundle/look")
def look(visit: At, bundle: Name) -> Response:
    """Look for a newer version: its difference, or that there is none."""
    before = visit.calls.bundle(bundle)
    done = visit.calls.look(bundle)
    if done.bundle.offered is None and done.bundle.version == before.version:
        return visit.go("bundle", bundle=bundle, done="current")
    what = "offered" if done.bundle.offered else "installed"
    return visit.page("bundle_change.html", done=done, most=MOST_TEXTS, what=what)


@router.post("/bundle/update")
def update(visit: At, bundle: Name, version: Field) -> Response:
    """Put the version that was offered in place."""
    visit.calls.update_bundle(bundle, version)
    return visit.go("bundle", bundle=bundle, done="updated")


@router.post("/bundle/rollback")
def roll_back(visit: At, bundle: Name) -> Response:
    """Back to the version before."""
    visit.calls.roll_back_bundle(bundle)
    return visit.go("bundle", bundle=bundle, done="rolled-back")


@router.post("/bundle/follow")
def follow(visit: At, bundle: Name, follow: Annotated[Follow, Form()]) -> Response:
    """Set what a newer version does."""
    visit.calls.follow(bundle, Subscription(follow=follow))
    return visit.go("bundle", bundle=bundle, done="followed")


@router.post("/bundle/remove")
def remove(visit: At, bundle: Name, seen: Seen) -> Response:
    """Uninstall the version that the page has shown; the page is its receipt.

    Raises:
        Conflict: another version is in place meanwhile.
    """
    if visit.calls.bundle(bundle).digest != seen:
        raise Conflict("another version is installed by now: load the page of the bundle again")
    receipt = visit.calls.uninstall(bundle)
    return visit.page("bundle_removed.html", receipt=receipt)
