"""Tables of installed bundles, and of the publishers whose bundles a tenant installs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from memos_vllm.vault.tables import Base


class PublisherRow(Base):
    __tablename__ = "publishers"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    public: Mapped[str] = mapped_column(String(64))
    label: Mapped[str] = mapped_column(String(200))
    created_us: Mapped[int]


class BundleRow(Base):
    """A bundle of a tenant. It stays when the bundle is uninstalled: with its publisher and the index's serial."""

    __tablename__ = "bundles"
    __table_args__ = (UniqueConstraint("tenant", "name", name="uq_bundles_name"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(80))
    source: Mapped[str] = mapped_column(String(200))
    """Name or address of its registry."""
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of the publisher's key: another publisher's bundle of this name is another bundle."""
    state: Mapped[str] = mapped_column(String(16))
    version: Mapped[str] = mapped_column(String(60))
    digest: Mapped[str] = mapped_column(String(80))
    config: Mapped[dict[str, Any]]
    follow: Mapped[str] = mapped_column(String(16))
    serial: Mapped[int]
    """Highest serial of the index that was seen."""
    highest: Mapped[str] = mapped_column(String(60))
    """Highest version that was ever installed."""
    offered: Mapped[str | None] = mapped_column(String(60))
    """Newer version that waits for an approval."""
    history: Mapped[list[str]]
    """Versions installed before, the oldest first."""
    readers: Mapped[list[str] | None]
    entitlement: Mapped[str | None] = mapped_column(Text)
    """Envelope of the publisher; None: there is none."""
    ends_us: Mapped[int | None]
    """End of the entitlement."""
    installed_us: Mapped[int]
    changed_us: Mapped[int]


class BundleCubeRow(Base):
    __tablename__ = "bundle_cubes"
    cube_id: Mapped[str] = mapped_column(
        ForeignKey("cubes.id", ondelete="CASCADE"), primary_key=True
    )
    bundle_id: Mapped[str] = mapped_column(ForeignKey("bundles.id", ondelete="CASCADE"), index=True)
    local: Mapped[str] = mapped_column(String(100))
    """Its name in the bundle."""
    digest: Mapped[str] = mapped_column(String(80))
    """Of its content, as the publisher sent it."""
    gates: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    """Adapter: digest of a content → what the gate of this server said of it."""


class BundleUsageRow(Base):
    __tablename__ = "bundle_usage"
    tenant: Mapped[str] = mapped_column(String(128), primary_key=True)
    bundle: Mapped[str] = mapped_column(String(80), primary_key=True)
    version: Mapped[str] = mapped_column(String(60), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    """UTC, ISO 8601."""
    requests: Mapped[int] = mapped_column(default=0)
    tokens: Mapped[int] = mapped_column(default=0)
