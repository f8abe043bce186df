"""Table of erasures."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from memos_vllm.vault.tables import Base


class ErasureRow(Base):
    __tablename__ = "erasures"
    __table_args__ = (Index("ix_erasures_subject", "tenant", "subject", "serial"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    serial: Mapped[int] = mapped_column(unique=True)
    """Counts all erasures: work with an older epoch writes nothing of the person."""
    tenant: Mapped[str] = mapped_column(String(128))
    subject: Mapped[str] = mapped_column(String(64))
    """HMAC of tenant and person."""
    person: Mapped[str] = mapped_column(String(256))
    """The name, until the erasure is done; then empty."""
    state: Mapped[str] = mapped_column(String(16))
    key_id: Mapped[str] = mapped_column(String(64))
    progress: Mapped[dict[str, Any]]
    work: Mapped[dict[str, Any]]
    receipt: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_us: Mapped[int]
    finished_us: Mapped[int | None]
