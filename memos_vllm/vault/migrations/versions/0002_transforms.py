"""Transforms between kinds of memory, and the derivation of cubes.

Revision 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cubes", sa.Column("stale", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "transforms",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("person", sa.String(length=256), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("made", sa.String(length=64), nullable=True),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_transforms_owner", "transforms", ["tenant", "person", "id"])
    op.create_index(op.f("ix_transforms_state"), "transforms", ["state"])
    op.create_table(
        "transform_sources",
        sa.Column("transform_id", sa.String(length=64), nullable=False),
        sa.Column("cube_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["transform_id"], ["transforms.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("transform_id", "cube_id"),
    )
    op.create_index(op.f("ix_transform_sources_cube_id"), "transform_sources", ["cube_id"])
    op.create_table(
        "derived",
        sa.Column("cube_id", sa.String(length=64), nullable=False),
        sa.Column("source_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["cube_id"], ["cubes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cube_id", "source_id"),
    )
    op.create_index(op.f("ix_derived_source_id"), "derived", ["source_id"])


def downgrade() -> None:
    op.drop_table("derived")
    op.drop_table("transform_sources")
    op.drop_table("transforms")
    op.drop_column("cubes", "stale")
