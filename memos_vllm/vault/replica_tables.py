"""Table of the server processes that share a database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from memos_vllm.vault.tables import Base


class ReplicaRow(Base):
    __tablename__ = "replicas"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    host: Mapped[str] = mapped_column(String(256))
    pid: Mapped[int]
    begun_us: Mapped[int]
    """Of its process, which tells it from a later one with the same number."""
    seen_us: Mapped[int]
    traits: Mapped[dict[str, Any]]
    """What all have to have in common: name to text."""
    learnt: Mapped[int]
    """Serial number of the last erasure that it knows."""
