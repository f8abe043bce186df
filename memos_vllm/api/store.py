"""`/v1/memory/store`: bundles of memory from registries that the operator has configured."""

from __future__ import annotations

import csv
import io
from datetime import date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import ConfigDict, Field

from memos_vllm.api.models import ERRORS, Caller, System, Word
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import to_datetime
from memos_vllm.cube.model import Label, Text
from memos_vllm.governance.principal import Role
from memos_vllm.memstore.catalogue import Catalogue, Published
from memos_vllm.memstore.store import MemStore, Outcome, trust
from memos_vllm.vault.bundles import Installed

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory/store", tags=["store"], responses=ERRORS
)

Bundle = Annotated[str, Path(description="name of a bundle", max_length=80, pattern=r"^[^\x00/]+$")]
_MOST_SHOWN = 200
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class NewBundle(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "handbook", "registry": "team"}]}
    )
    name: Text = Field(max_length=80)
    registry: Label | None = Field(None, description="of `store.registries`; default: the only one")
    version: Label | None = Field(None, description="default: the newest")
    follow: Follow = Follow.NEVER
    readers: list[Label] | None = Field(
        None, description="persons who may use it; null: the whole tenant", max_length=1000
    )
    publisher: Label | None = Field(
        None, description="fingerprint of a key, to trust from now on: ask the publisher for it"
    )


class Approval(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})
    digest: _Digest | None = Field(
        None, description="of the version that you looked at; another one installed is a 409"
    )
    readers: list[Label] | None = Field(None, description="null: as before", max_length=1000)
    entitlement: str | None = Field(
        None, max_length=16 << 10, description="the publisher's, for a bundle with a price"
    )


class NewVersion(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})
    version: Label | None = Field(None, description="default: the newest")


class Subscription(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"follow": "approve"}]}
    )
    follow: Follow


class NewPublisher(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"key": "a1" * 32, "label": "Acme"}]}
    )
    key: Text = Field(max_length=4096, description="public key: PEM, or 64 hex digits")
    label: Label


class PublisherView(Strict):
    fingerprint: str
    label: str
    trusted: datetime


class PublisherList(Strict):
    publishers: list[PublisherView]


class BundleView(Strict):
    name: str
    version: str
    state: BundleState
    registry: str
    publisher: str = Field(description="fingerprint of its key")
    digest: str
    follow: Follow
    offered: str | None = Field(description="newer version that waits for an update")
    history: list[str] = Field(description="versions installed before")
    readers: list[str] | None
    ends: datetime | None = Field(description="end of its entitlement; null: none")
    cubes: dict[str, str] = Field(description="name in the bundle → id")
    about: dict[str, Any] = Field(description="its publisher's description")
    installed: datetime
    changed: datetime


class BundleList(Strict):
    bundles: list[BundleView]


class DifferenceView(Strict):
    cube: str
    change: Literal["added", "changed", "removed"]
    kind: str
    added: list[str]
    removed: list[str]
    left_out: int = Field(description="texts that are not shown here")


class OutcomeView(Strict):
    bundle: BundleView
    skipped: dict[str, str] = Field(description="cubes that do not fit the served model, with why")
    differences: list[DifferenceView]
    index_pending: bool = Field(description="the embedder or Chroma does not answer: indexed later")


class PublishedView(Strict):
    name: str
    newest: str | None = Field(description="null: all versions are withdrawn")
    digest: str | None
    versions: list[str]
    withdrawn: dict[str, str]
    publisher: str = Field(description="fingerprint of its key")
    trusted: bool
    expires: datetime = Field(description="when its index has to be signed again")
    about: dict[str, Any] | None


class PublishedList(Strict):
    bundles: list[PublishedView]


class UsageView(Strict):
    bundle: str
    version: str
    day: str
    requests: int
    tokens: int


class UsageList(Strict):
    usage: list[UsageView]


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
    return _outcome(done)


@router.post("/bundles/{name}/approve")
def approve_bundle(system: System, caller: Caller, name: Bundle, approval: Approval) -> BundleView:
    """Let the tenant, or some people, use a bundle; renew an entitlement. Needs an `admin` key."""
    done = MemStore(system).approve(
        caller,
        name,
        digest=approval.digest,
        readers=approval.readers,
        entitlement=approval.entitlement,
    )
    return view(done)


@router.post("/bundles/{name}/check")
def check_bundle(system: System, caller: Caller, name: Bundle) -> OutcomeView:
    """Look for a newer version, with its difference; `follow: auto` puts it in place. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    found = system.bundles.get(caller.tenant, name)
    done = store.check(caller, store.registry(found.source)[1], name)
    return _outcome(done or Outcome(system.bundles.get(caller.tenant, name), {}))


@router.post("/bundles/{name}/update")
def update_bundle(system: System, caller: Caller, name: Bundle, wanted: NewVersion) -> OutcomeView:
    """Put another version in place. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    registry = store.registry(system.bundles.get(caller.tenant, name).source)[1]
    return _outcome(store.update(caller, registry, name, wanted.version))


@router.post("/bundles/{name}/rollback")
def rollback_bundle(system: System, caller: Caller, name: Bundle) -> OutcomeView:
    """Back to the version that was installed before. Needs an `admin` key."""
    caller.require(Role.ADMIN)
    store = MemStore(system)
    registry = store.registry(system.bundles.get(caller.tenant, name).source)[1]
    return _outcome(store.rollback(caller, registry, name))


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


def usage_csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(UsageView.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


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


def published(found: Published) -> PublishedView:
    index = found.index
    return PublishedView(
        name=index.name,
        newest=index.newest(),
        digest=found.digest,
        versions=list(index.versions),
        withdrawn=dict(index.withdrawn),
        publisher=found.publisher.fingerprint,
        trusted=found.is_trusted,
        expires=index.expires,
        about=found.config.model_dump(mode="json") if found.config is not None else None,
    )


def view(found: Installed) -> BundleView:
    return BundleView(
        name=found.name,
        version=found.version,
        state=found.state,
        registry=found.source,
        publisher=found.fingerprint,
        digest=found.digest,
        follow=found.follow,
        offered=found.offered,
        history=list(found.history),
        readers=list(found.readers) if found.readers is not None else None,
        ends=to_datetime(found.ends_us) if found.ends_us is not None else None,
        cubes={name: cube for name, (cube, _) in found.cubes.items()},
        about=dict(found.config),
        installed=to_datetime(found.installed_us),
        changed=to_datetime(found.changed_us),
    )


def _outcome(done: Outcome) -> OutcomeView:
    return OutcomeView(
        bundle=view(done.bundle),
        skipped=dict(done.skipped),
        differences=[
            DifferenceView(
                cube=each.cube,
                change=each.change,
                kind=each.kind,
                added=list(each.added[:_MOST_SHOWN]),
                removed=list(each.removed[:_MOST_SHOWN]),
                left_out=max(0, len(each.added) - _MOST_SHOWN)
                + max(0, len(each.removed) - _MOST_SHOWN),
            )
            for each in done.differences
        ],
        index_pending=not done.is_indexed,
    )
