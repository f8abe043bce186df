"""Bodies of `/v1/memory/store`, made from what MemStore knows."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from memos_vllm.api.models import Body as Strict
from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import to_datetime
from memos_vllm.cube.model import Label, Text
from memos_vllm.memstore.catalogue import Published
from memos_vllm.memstore.store import Outcome
from memos_vllm.parametric.training.order import Recall
from memos_vllm.vault.bundle_rows import Installed

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
    trust_adapters: bool = Field(
        False, description="use its adapters although they have not passed the gate on this server"
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


class GateView(Strict):
    """What the gate of this server said of an adapter."""

    outcome: Literal["waiting", "passed", "refused", "failed", "trusted"] = "waiting"
    reasons: list[str] = Field(default_factory=list)
    perplexity_ratio: float | None = Field(
        None, description="perplexity of unrelated text, relative to the base model's"
    )
    recall: Recall | None = Field(
        None, description="share of right answers to its publisher's questions"
    )
    seconds: float | None = None


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
    adapters: dict[str, GateView] = Field(
        description="name in the bundle → its exam here; no prompt uses one that has not passed and is not trusted"
    )
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


def usage_csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(UsageView.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


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
        adapters={name: GateView.model_validate(each) for name, each in found.gates.items()},
        about=dict(found.config),
        installed=to_datetime(found.installed_us),
        changed=to_datetime(found.changed_us),
    )


def outcome(done: Outcome) -> OutcomeView:
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
