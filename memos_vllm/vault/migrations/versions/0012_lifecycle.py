"""Headers of versions, what was forgotten and when, policies of tenants, restores.

Revision 0012. Versions of before have no header: reads of a past moment take the cube's present one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("header", sa.JSON(none_as_null=True)))
    op.create_table(
        "forgettings",
        sa.Column("undo", sa.String(64), primary_key=True),
        sa.Column("cube_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("person", sa.String(256), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_forgettings_owner", "forgettings", ["tenant", "person"])
    op.create_table(
        "policies",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("number", sa.BigInteger(), primary_key=True),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
    )
    op.create_table(
        "restores",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("person", sa.String(256), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("as_of_us", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_restores_owner", "restores", ["tenant", "person", "id"])


def downgrade() -> None:
    op.drop_table("restores")
    op.drop_table("policies")
    op.drop_table("forgettings")
    op.drop_column("versions", "header")
