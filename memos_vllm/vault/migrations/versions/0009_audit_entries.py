"""Audit log of keyed chains; the old chain stays in `audit`.

Revision 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("shard", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("person", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("object", sa.String(128), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("mac_key", sa.String(16), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.Column("leaf", sa.BigInteger()),
        sa.UniqueConstraint("tenant", "leaf", name="uq_audit_leaf"),
    )
    op.create_index("ix_audit_unsealed", "audit_entries", ["leaf", "tenant"])
    op.create_table(
        "audit_shards",
        sa.Column("shard", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False, index=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
    )
    op.create_table(
        "audit_persons",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("person", sa.String(256), primary_key=True),
        sa.Column("pseudonym", sa.String(32), nullable=False, unique=True),
        sa.Column("mac_key", sa.String(16), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("audit_persons")
    op.drop_table("audit_shards")
    op.drop_table("audit_entries")
