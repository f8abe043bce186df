"""Tables of `/v1/responses` and `/v1/conversations`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from memos_vllm.vault.tables import Base


class ResponseRow(Base):
    __tablename__ = "responses"
    __table_args__ = (Index("ix_responses_owner", "tenant", "person", "conversation"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    key_id: Mapped[str] = mapped_column(String(64))
    conversation: Mapped[str | None] = mapped_column(String(64))
    previous: Mapped[str | None] = mapped_column(String(64), index=True)
    created_us: Mapped[int]
    expires_us: Mapped[int | None] = mapped_column(index=True)
    input: Mapped[list[Any]] = mapped_column(JSON)
    response: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of input and response, for quotas."""


class ConversationRow(Base):
    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    person: Mapped[str] = mapped_column(String(256))
    key_id: Mapped[str] = mapped_column(String(64))
    created_us: Mapped[int]
    details: Mapped[dict[str, Any]]
    items: Mapped[list[Any]] = mapped_column(JSON)
    bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of details and items, for quotas."""
