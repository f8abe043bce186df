"""Tables of the audit log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from memos_vllm.vault.tables import Base, Serial


class AuditRow(Base):
    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_tenant", "tenant", "seq"),)
    seq: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    at_us: Mapped[int]
    tenant: Mapped[str] = mapped_column(String(128))
    actor: Mapped[str] = mapped_column(String(300))
    action: Mapped[str] = mapped_column(String(32))
    object: Mapped[str] = mapped_column(String(300))
    detail: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class AuditEntryRow(Base):
    __tablename__ = "audit_entries"
    __table_args__ = (
        UniqueConstraint("tenant", "leaf", name="uq_audit_leaf"),
        Index("ix_audit_unsealed", "leaf", "tenant"),
    )
    shard: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    at_us: Mapped[int]
    key_id: Mapped[str] = mapped_column(String(64))
    person: Mapped[str] = mapped_column(String(32))
    owner: Mapped[str] = mapped_column(String(32))
    request_id: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(32))
    object: Mapped[str] = mapped_column(String(128))
    detail: Mapped[dict[str, Any]]
    mac_key: Mapped[str] = mapped_column(String(16))
    mac: Mapped[str] = mapped_column(String(64))
    leaf: Mapped[int | None]


class AuditShardRow(Base):
    __tablename__ = "audit_shards"
    shard: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128), index=True)
    count: Mapped[int]
    at_us: Mapped[int]
    head: Mapped[str] = mapped_column(String(64))


class AuditTreeRow(Base):
    __tablename__ = "audit_trees"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    sealed: Mapped[int]
    """Leaves given away."""
    checkpoint: Mapped[dict[str, Any] | None]
    """The newest one, signed, so that a change of it is found."""
    nodes: Mapped[str] = mapped_column(Text)
    """Frontier of that checkpoint's tree, hex; its root is the checkpoint's."""
    delivered: Mapped[int]
    """Size of the newest checkpoint that was sent to `governance.audit.checkpoint_url`."""


class AuditPersonRow(Base):
    __tablename__ = "audit_persons"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    person: Mapped[str] = mapped_column(String(256), primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(32), unique=True)
    mac_key: Mapped[str] = mapped_column(String(16))
    mac: Mapped[str] = mapped_column(String(64))
