"""Installed bundles, trusted publishers, and the metering of bundles.

Revision 0019.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "publishers",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("public", sa.String(64), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "bundles",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.String(60), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("follow", sa.String(16), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("highest", sa.String(60), nullable=False),
        sa.Column("offered", sa.String(60), nullable=True),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.Column("readers", sa.JSON(), nullable=True),
        sa.Column("entitlement", sa.Text(), nullable=True),
        sa.Column("ends_us", sa.BigInteger(), nullable=True),
        sa.Column("installed_us", sa.BigInteger(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("tenant", "name", name="uq_bundles_name"),
    )
    op.create_table(
        "bundle_cubes",
        sa.Column(
            "cube_id",
            sa.String(64),
            sa.ForeignKey("cubes.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column(
            "bundle_id",
            sa.String(64),
            sa.ForeignKey("bundles.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("local", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
    )
    op.create_index("ix_bundle_cubes_bundle_id", "bundle_cubes", ["bundle_id"])
    op.create_table(
        "bundle_usage",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("bundle", sa.String(80), primary_key=True),
        sa.Column("version", sa.String(60), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    for table in ("bundle_usage", "bundle_cubes", "bundles", "publishers"):
        op.drop_table(table)
