"""Entitlements: a publisher's signed word that a tenant may use a bundle, for how many people and how long."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Literal

from pydantic import Field

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.moments import Moment
from memos_vllm.errors import Forbidden, MemosError, Unprocessable
from memos_vllm.memstore.model import BundleName, Strict, Words, parsed
from memos_vllm.memstore.signing import PublicKey, PublisherKey, opened

MEDIA = "application/vnd.memos.entitlement.v1+json"
ENTITLEMENT_BYTES = 16 << 10


class Entitlement(Strict):
    format: Literal["memos-entitlement-1"] = "memos-entitlement-1"
    bundle: BundleName
    tenant: Words
    server: Words | None = Field(
        None,
        description="id of the one server on which it holds; null: every server with that tenant",
    )
    seats: int | None = Field(
        None, ge=1, description="people who may use it; null: all of the tenant"
    )
    issued: Moment
    expires: Moment | None = Field(None, description="null: it has no end")


def issue(
    key: PublisherKey,
    bundle: str,
    tenant: str,
    seats: int | None,
    expires: datetime | None,
    server: str | None = None,
) -> str:
    """A signed entitlement, as text.

    Args:
        server: of `memos store id`; None: it holds on every server.
    """
    content = Entitlement(
        bundle=bundle,
        tenant=tenant,
        server=server,
        seats=seats,
        issued=to_datetime(now_us()),
        expires=expires,
    )
    return key.sign(json.dumps(content.model_dump(mode="json")).encode(), MEDIA).decode()


def read(text: str, key: PublicKey, bundle: str, tenant: str, server: str) -> Entitlement:
    """An entitlement of a bundle's publisher for this tenant, which has not ended.

    Raises:
        Forbidden: it is for another tenant, bundle or server, has ended, or another key signed it.
        Unprocessable: it is none.
    """
    try:
        content, _ = opened(text.encode(), MEDIA, [key], "entitlement")
    except Forbidden as error:
        raise Forbidden(
            f"the publisher of {bundle} did not sign this entitlement", param="entitlement"
        ) from error
    except MemosError as error:
        raise Unprocessable(error.message, param="entitlement") from error
    found = parsed(Entitlement, content, "entitlement", ENTITLEMENT_BYTES)
    if (found.bundle, found.tenant) != (bundle, tenant):
        raise Forbidden(
            f"the entitlement is for {found.bundle} of tenant {found.tenant}", param="entitlement"
        )
    if found.server not in (None, server):
        raise Forbidden(
            f"the entitlement is for the server {found.server}; this one is {server}",
            param="entitlement",
        )
    if found.expires is not None and found.expires <= to_datetime(now_us()):
        raise Forbidden(
            f"the entitlement has ended on {found.expires:%Y-%m-%d}", param="entitlement"
        )
    return found
