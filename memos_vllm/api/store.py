"""`/v1/memory/store`: bundles of memory from registries that the operator has configured."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from memos_vllm.api.models import ERRORS, Caller, System, Word
from memos_vllm.api.store_models import (
    Approval,
    BundleList,
    BundleView,
    NewBundle,
    NewPublisher,
    NewVersion,
    OutcomeView,
    PublishedList,
    PublishedView,
    PublisherList,
    PublisherView,
    Subscription,
    UsageList,
    UsageView,
    outcome,
    published,
    usage_csv,
    view,
)
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.ids import to_datetime
from memos_vllm.governance.principal import Role
from memos_vllm.memstore.catalogue import Catalogue
from memos_vllm.memstore.store import MemStore, Outcome, trust

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/store", tags=["store"], responses=ERRORS
)

Bundle = Annotated[str, Path(description="name of a bundle", max_length=80, pattern=r"^[^\x00/]+$")]


@router.get("/search")
def search_store(
    system: System,
    caller: Caller,
    q: Annotated[str, Query(max_length=200)] = "",
    registry: Word = None,
) -> PublishedList:
    """Bundles of a registry whose name or description has all the words. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    _, found = MemStore(system).registry(registry)
    return PublishedList(
        bundles=[published(each) for each in Catalogue(system, caller, found).search(q)]
    )


@router.get("/search/{name}")
def show_published(
    system: System, caller: Caller, name: Bundle, registry: Word = None
) -> PublishedView:
    """A bundle in a registry, before it is installed. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    _, found = MemStore(system).registry(registry)
    return published(Catalogue(system, caller, found).show(name))


@router.get("/bundles")
def list_bundles(system: System, caller: Caller) -> BundleList:
    """Installed bundles of the tenant. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    return BundleList(bundles=[view(each) for each in system.bundles.all(caller.tenant)])


@router.get("/bundles/{name}")
def get_bundle(system: System, caller: Caller, name: Bundle) -> BundleView:
    """An installed bundle. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    return view(system.bundles.get(caller.tenant, name))


@router.post("/bundles", status_code=201)
def install_bundle(system: System, caller: Caller, new: NewBundle) -> OutcomeView:
    """Install a bundle, all of it or nothing; it is quarantined until it is approved. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    source, registry = store.registry(new.registry)
    done = store.install(
        caller,
        source,
        registry,
        new.name,
        new.version,
        follow=new.follow,
        readers=new.readers,
        publisher=new.publisher,
    )
    return outcome(done)


@router.post("/bundles/{name}/approve")
def approve_bundle(
    system: System,
    caller: Caller,
    name: Bundle,
    approval: Approval,
) -> BundleView:
    """Let the tenant, or some people, use a bundle; renew an entitlement. Needs an `admin` key.

    An adapter is used once it has passed the gate on this server, which examines it from the installation on. The KV
    of a bundle that stands in every prompt is built behind the answer, so that its first question is fast.
    """
    done = MemStore(system).approve(
        caller,
        name,
        digest=approval.digest,
        readers=approval.readers,
        entitlement=approval.entitlement,
        trust_adapters=approval.trust_adapters,
    )
    return view(done)


@router.post("/bundles/{name}/check")
def check_bundle(system: System, caller: Caller, name: Bundle) -> OutcomeView:
    """Look for a newer version, with its difference; `follow: auto` puts it in place. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    found = system.bundles.get(caller.tenant, name)
    done = store.check(caller, store.registry(found.source)[1], name)
    return outcome(done or Outcome(system.bundles.get(caller.tenant, name), {}))


@router.post("/bundles/{name}/update")
def update_bundle(
    system: System,
    caller: Caller,
    name: Bundle,
    wanted: NewVersion,
) -> OutcomeView:
    """Put another version in place. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    registry = store.registry(system.bundles.get(caller.tenant, name).source)[1]
    done = store.update(caller, registry, name, wanted.version)
    return outcome(done)


@router.post("/bundles/{name}/rollback")
def rollback_bundle(system: System, caller: Caller, name: Bundle) -> OutcomeView:
    """Back to the version that was installed before. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    registry = store.registry(system.bundles.get(caller.tenant, name).source)[1]
    return outcome(store.rollback(caller, registry, name))


@router.patch("/bundles/{name}")
def follow_bundle(system: System, caller: Caller, name: Bundle, wanted: Subscription) -> BundleView:
    """Set what a newer version does: `never`, `approve` (it is offered) or `auto`. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    offered = system.bundles.get(caller.tenant, name).offered
    return view(system.bundles.note(caller, name, follow=wanted.follow, offered=offered))


@router.delete("/bundles/{name}")
def uninstall_bundle(system: System, caller: Caller, name: Bundle) -> dict[str, Any]:
    """Delete a bundle with all that it brought; the answer is a signed receipt. Needs an `admin` key."""
    return MemStore(system).uninstall(caller, name)


@router.get("/publishers")
def list_publishers(system: System, caller: Caller) -> PublisherList:
    """Publishers that the tenant trusts. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    return _publishers(system, caller)


@router.post("/publishers", status_code=201)
def trust_publisher(system: System, caller: Caller, new: NewPublisher) -> PublisherList:
    """Trust a publisher's key. Needs an `admin` key."""
    trust(system, caller, new.key, new.label)
    return _publishers(system, caller)


@router.delete("/publishers/{fingerprint}")
def distrust_publisher(
    system: System,
    caller: Caller,
    fingerprint: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")],
) -> PublisherList:
    """Install nothing more of a publisher; what is installed stays. Needs an `admin` key."""
    system.publishers.distrust(caller, fingerprint)
    return _publishers(system, caller)


@router.get(
    "/usage",
    response_model=UsageList,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def bundle_usage(
    system: System,
    caller: Caller,
    since: Annotated[date | None, Query(description="first day, UTC")] = None,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the name of a query parameter
) -> UsageList | Response:
    """Requests and prompt tokens of each bundle by day. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    first = since.isoformat() if since is not None else ""
    rows = [
        UsageView(
            bundle=each.bundle,
            version=each.version,
            day=each.day,
            requests=each.requests,
            tokens=each.tokens,
        )
        for each in system.bundle_usage.by_day(caller.tenant, first)
    ]
    if format == "json":
        return UsageList(usage=rows)
    return Response(usage_csv([row.model_dump() for row in rows]), media_type="text/csv")


def _publishers(system: System, caller: Caller) -> PublisherList:
    found = system.publishers.all(caller.tenant)
    return PublisherList(
        publishers=[
            PublisherView(
                fingerprint=each.fingerprint, label=each.label, trusted=to_datetime(each.created_us)
            )
            for each in found
        ]
    )
