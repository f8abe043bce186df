"""State of the audit log's Merkle trees.

Revision 0014.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_trees",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("sealed", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.JSON()),
        sa.Column("nodes", sa.Text(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
    )
    op.execute(
        "INSERT INTO audit_trees (tenant, sealed, nodes, delivered) "
        "SELECT tenant, max(leaf) + 1, '', 0 FROM audit_entries "
        "WHERE leaf IS NOT NULL GROUP BY tenant"
    )


def downgrade() -> None:
    op.drop_table("audit_trees")
