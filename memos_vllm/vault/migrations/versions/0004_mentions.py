"""Mentions of entities in items; those of existing items are read from their text.

Revision 0004.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from memos_vllm.cube.entities import entities_of
from memos_vllm.cube.model import Claim, Item

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    mentions = op.create_table(
        "mentions",
        sa.Column("item_id", sa.String(64), primary_key=True),
        sa.Column("entity", sa.String(200), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("person", sa.String(256), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], ondelete="CASCADE"),
    )
    op.create_index("ix_mentions_entity", "mentions", ["tenant", "person", "entity"])
    items = sa.table(
        "items",
        *(sa.column(name) for name in ("id", "tenant", "person", "text", "speaker")),
        sa.column("claim", sa.JSON()),
    )
    connection = op.get_bind()
    last = ""
    while rows := connection.execute(
        sa.select(items).where(items.c.id > last).order_by(items.c.id).limit(_BATCH)
    ).all():
        last = rows[-1].id
        if named := [mention for row in rows for mention in _mentions(row)]:
            connection.execute(sa.insert(mentions), named)


def downgrade() -> None:
    op.drop_index("ix_mentions_entity", "mentions")
    op.drop_table("mentions")


def _mentions(row: Any) -> list[dict[str, str]]:
    claim = json.loads(row.claim) if isinstance(row.claim, str) else row.claim
    item = Item(
        text=row.text, speaker=row.speaker, claim=Claim.model_validate(claim) if claim else None
    )
    owner = {"item_id": row.id, "tenant": row.tenant, "person": row.person}
    return [
        owner | {"entity": each.key, "name": each.name, "kind": each.kind}
        for each in entities_of(item)
    ]
