"""The vault's tables. Times are microseconds since the epoch (UTC); `person == ""` is the tenant.

    settings      one row per secret or setting of the installation
    tenants       head of each tenant's audit chain of the versions up to 0.1
    api_keys      digests of keys, never keys
    person_tokens ids of person tokens until they expire, never tokens
    cubes         headers; `head_version` points into versions
    versions      immutable; the payload lies in a file named by its SHA-256
    items         items of the head versions, one row each: the source of every index
    mentions      which entity each item names: with the items, a graph of people, places and things
    grants        permissions on a cube: of persons, groups, roles, the tenant; allowed or denied
    groups        groups of people of a tenant, and group_members
    owners        per (tenant, person): a revision that changes with every change of its items, and what
                  is stored (`quotas`)
    training_use  seconds of training per tenant and day
    outbox        pending writes to Chroma and the payload store, written with the change itself
    idempotency   replies that a repeated request gets again
    pending_turns turns of conversation that are not yet memory
    plans         what `explain` shows
    responses     stored replies of `/v1/responses` with what they answer
    conversations of `/v1/conversations`: what was put into them at their creation
    jobs          the durable queue: jobs that wait, run or were set aside
    transforms    requests to make one kind of memory from another, with progress and report
    transform_sources  cubes that each of them reads; deleting one deletes the transform
    derived       which cube was made from which
    forgettings   which cubes lost text to orders to forget, and when; no text
    policies      versions of tenants' policies; the highest number is in force
    restores      jobs that bring a person's memory back to a past moment
    audit         log of the versions up to 0.1, one unkeyed hash chain per tenant
    audit_entries audit log: keyed chains; `leaf` is the place in the tenant's Merkle tree
    audit_shards  heads of these chains, as many per tenant as there were writers at once
    audit_trees   size and frontier of each tenant's Merkle tree, as of its newest checkpoint
    audit_persons names of the pseudonyms in the log; erasing a row erases the name
    publishers, bundles, bundle_cubes, bundle_usage   of MemStore
    erasures      erased persons by a keyed digest, with the signed receipt; `serial` fences older work

Changing a table means a new Alembic revision in `migrations/versions`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite gives an auto-incrementing key only to INTEGER, Postgres wants BIGINT for long-lived ones.
Serial = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON,
        list[str]: JSON,
        int: BigInteger,
    }


class SettingRow(Base):
    __tablename__ = "settings"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class TenantRow(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    created_us: Mapped[int]
    audit_digest: Mapped[str] = mapped_column(String(64), default="")


class KeyRow(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128), index=True)
    role: Mapped[str] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(200), default="")
    digest: Mapped[str] = mapped_column(String(64))
    created_us: Mapped[int]
    expires_us: Mapped[int | None]
    revoked_us: Mapped[int | None]
    scopes: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Null: every scope."""
    old_digest: Mapped[str | None] = mapped_column(String(64))
    """Of the secret before the last rotation, which counts until `old_until_us`."""
    old_until_us: Mapped[int | None]


class PersonTokenRow(Base):
    __tablename__ = "person_tokens"
    __table_args__ = (Index("ix_person_tokens_person", "tenant", "person"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    key_id: Mapped[str] = mapped_column(String(32))
    scopes: Mapped[list[str]]
    created_us: Mapped[int]
    expires_us: Mapped[int] = mapped_column(index=True)
    revoked_us: Mapped[int | None]


class CubeRow(Base):
    __tablename__ = "cubes"
    __table_args__ = (
        UniqueConstraint("tenant", "person", "name", name="uq_cubes_owner_name"),
        Index("ix_cubes_owner", "tenant", "person", "created_us", "id"),
        Index("ix_cubes_placement", "tenant", "placement"),
        Index("ix_cubes_origin", "tenant", "person", "origin_id", unique=True),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    name: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    placement: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int]
    tags: Mapped[list[str]]
    access: Mapped[dict[str, Any]]
    """As a client gave it; the vault decides by `is_open` and the grants made from it (`vault.grants`)."""
    is_open: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Shared, without a list of readers and without a grant that denies: the whole tenant has it."""
    model_fingerprint: Mapped[str | None] = mapped_column(String(128))
    head_version: Mapped[str] = mapped_column(String(64))
    head_sequence: Mapped[int]
    created_us: Mapped[int]
    updated_us: Mapped[int]
    expires_us: Mapped[int | None]
    reads: Mapped[int] = mapped_column(default=0)
    last_read_us: Mapped[int | None]
    stale: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    origin_id: Mapped[str | None] = mapped_column(String(64))
    """Id in the person's archive that it was imported from; null: it was made here."""


class GrantRow(Base):
    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint(
            "cube_id", "kind", "subject", "effect", "origin", name="uq_grants_subject"
        ),
        Index("ix_grants_subject", "tenant", "kind", "subject"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cube_id: Mapped[str] = mapped_column(ForeignKey("cubes.id", ondelete="CASCADE"))
    tenant: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(8))
    subject: Mapped[str] = mapped_column(String(256))
    """Name of a person or role, id of a group; empty: the tenant."""
    group_id: Mapped[str | None] = mapped_column(
        ForeignKey("groups.id", ondelete="CASCADE"), index=True
    )
    effect: Mapped[str] = mapped_column(String(8))
    permissions: Mapped[int]
    """Sum of `permit.BITS`."""
    expires_us: Mapped[int | None]
    origin: Mapped[str] = mapped_column(String(8))
    """`grant`, or `access`: made from the cube's access list."""
    made_by: Mapped[str | None] = mapped_column(String(256))
    """Person who shared it; null: the owner or an admin."""
    created_us: Mapped[int]


class GroupRow(Base):
    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("tenant", "name", name="uq_groups_name"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(200))
    created_us: Mapped[int]


class GroupMemberRow(Base):
    __tablename__ = "group_members"
    __table_args__ = (Index("ix_group_members_person", "tenant", "person"),)
    group_id: Mapped[str] = mapped_column(
        ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True
    )
    person: Mapped[str] = mapped_column(String(256), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))


class VersionRow(Base):
    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("cube_id", "sequence", name="uq_versions_sequence"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cube_id: Mapped[str] = mapped_column(ForeignKey("cubes.id", ondelete="CASCADE"))
    sequence: Mapped[int]
    parent: Mapped[str | None] = mapped_column(String(64))
    author: Mapped[str] = mapped_column(String(256))
    action: Mapped[str] = mapped_column(String(16))
    created_us: Mapped[int]
    provenance: Mapped[dict[str, Any]]
    payload_sha256: Mapped[str] = mapped_column(String(64))
    payload_bytes: Mapped[int]
    header: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """Fields of the cube's header with this version; null: made before schema revision 0012."""


class ItemRow(Base):
    __tablename__ = "items"
    __table_args__ = (
        Index("ix_items_owner", "tenant", "person"),
        Index("ix_items_cube", "cube_id", "ordinal"),
        Index("ix_items_claim", "tenant", "person", "claim_key"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cube_id: Mapped[str] = mapped_column(ForeignKey("cubes.id", ondelete="CASCADE"))
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    ordinal: Mapped[int]
    type: Mapped[str] = mapped_column(String(16))
    text: Mapped[str] = mapped_column(Text)
    speaker: Mapped[str | None] = mapped_column(String(500))
    time_us: Mapped[int | None]
    session: Mapped[str | None] = mapped_column(String(500))
    source: Mapped[str | None] = mapped_column(String(500))
    claim: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    claim_key: Mapped[str | None] = mapped_column(String(64))
    """Digest of subject and attribute: claims that could supersede each other share it."""
    mark: Mapped[str | None] = mapped_column(String(16))
    """Why a reply is no evidence (`Mark`); null: it is."""


class MentionRow(Base):
    __tablename__ = "mentions"
    __table_args__ = (Index("ix_mentions_entity", "tenant", "person", "entity"),)
    item_id: Mapped[str] = mapped_column(
        ForeignKey("items.id", ondelete="CASCADE"), primary_key=True
    )
    entity: Mapped[str] = mapped_column(String(200), primary_key=True)
    """The name, folded: one node of the graph."""
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(8))
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))


class OwnerRow(Base):
    __tablename__ = "owners"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    person: Mapped[str] = mapped_column(String(256), primary_key=True)
    revision: Mapped[int]
    items: Mapped[int]
    cubes: Mapped[int]
    """Of every kind."""
    text_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Payloads of all versions of the cubes of text."""
    adapter_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    adapters: Mapped[int] = mapped_column(default=0, server_default="0")
    responses: Mapped[int] = mapped_column(default=0, server_default="0")
    """Stored replies of `/v1/responses`, and conversations."""
    response_bytes: Mapped[int] = mapped_column(default=0, server_default="0")


class TrainingUseRow(Base):
    __tablename__ = "training_use"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Days since the epoch (UTC)."""
    seconds: Mapped[int]


class OutboxRow(Base):
    __tablename__ = "outbox"
    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    op: Mapped[str] = mapped_column(String(16))
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    cube_id: Mapped[str] = mapped_column(String(64), index=True)
    item_id: Mapped[str] = mapped_column(String(64), default="")
    created_us: Mapped[int]


class IdempotencyRow(Base):
    __tablename__ = "idempotency"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    cube_ids: Mapped[list[str]]
    created_us: Mapped[int] = mapped_column(index=True)


class PendingTurnRow(Base):
    __tablename__ = "pending_turns"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    body: Mapped[dict[str, Any]]
    created_us: Mapped[int] = mapped_column(index=True)


class PlanRow(Base):
    __tablename__ = "plans"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(300), primary_key=True)
    person: Mapped[str] = mapped_column(String(256))
    created_us: Mapped[int] = mapped_column(index=True)
    plan: Mapped[dict[str, Any]]


class TransformRow(Base):
    __tablename__ = "transforms"
    __table_args__ = (Index("ix_transforms_owner", "tenant", "person", "id"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    role: Mapped[str] = mapped_column(String(16))
    key_id: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    request: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report: Mapped[dict[str, Any] | None]
    made: Mapped[str | None] = mapped_column(String(64))
    created_us: Mapped[int]


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("name", "subject", name="uq_jobs_subject"),
        Index("ix_jobs_lane", "lane", "state", "created_us"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    lane: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(600))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    not_before_us: Mapped[int]
    leased_until_us: Mapped[int]
    holder: Mapped[str] = mapped_column(String(128))
    error: Mapped[str] = mapped_column(String(200))
    created_us: Mapped[int]


class TransformSourceRow(Base):
    __tablename__ = "transform_sources"
    transform_id: Mapped[str] = mapped_column(
        ForeignKey("transforms.id", ondelete="CASCADE"), primary_key=True
    )
    cube_id: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class ForgettingRow(Base):
    __tablename__ = "forgettings"
    __table_args__ = (Index("ix_forgettings_owner", "tenant", "person"),)
    undo: Mapped[str] = mapped_column(String(64), primary_key=True)
    cube_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    sequence: Mapped[int]
    """Of the last version with the text."""
    at_us: Mapped[int]


class PolicyRow(Base):
    __tablename__ = "policies"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key_id: Mapped[str] = mapped_column(String(64))
    created_us: Mapped[int]
    body: Mapped[dict[str, Any]]


class RestoreRow(Base):
    __tablename__ = "restores"
    __table_args__ = (Index("ix_restores_owner", "tenant", "person", "id"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    key_id: Mapped[str] = mapped_column(String(64))
    as_of_us: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    report: Mapped[dict[str, Any]]
    created_us: Mapped[int]


class DerivedRow(Base):
    __tablename__ = "derived"
    cube_id: Mapped[str] = mapped_column(
        ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True
    )
    source_id: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    version: Mapped[str] = mapped_column(String(64))
