"""Items with extracted claims; the item type `turn` is renamed `episode`.

Revision 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("claim", sa.JSON(), nullable=True))
    op.add_column("items", sa.Column("claim_key", sa.String(length=64), nullable=True))
    op.create_index("ix_items_claim", "items", ["tenant", "person", "claim_key"])
    op.execute("UPDATE items SET type = 'episode' WHERE type = 'turn'")


def downgrade() -> None:
    op.execute("UPDATE items SET type = 'turn' WHERE type = 'episode'")
    op.drop_index("ix_items_claim", "items")
    with op.batch_alter_table("items") as items:
        items.drop_column("claim")
        items.drop_column("claim_key")
