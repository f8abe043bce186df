"""Scopes and rotation of API keys; person tokens.

Revision 0008. Keys of older versions have every scope.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", sa.JSON(none_as_null=True)))
    op.add_column("api_keys", sa.Column("old_digest", sa.String(64)))
    op.add_column("api_keys", sa.Column("old_until_us", sa.BigInteger()))
    op.create_table(
        "person_tokens",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("person", sa.String(256), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger()),
    )
    op.create_index("ix_person_tokens_person", "person_tokens", ["tenant", "person"])
    op.create_index("ix_person_tokens_expires_us", "person_tokens", ["expires_us"])


def downgrade() -> None:
    op.drop_table("person_tokens")
    for column in ("old_until_us", "old_digest", "scopes"):
        op.drop_column("api_keys", column)
