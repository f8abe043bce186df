"""Sizes of stored replies and conversations, and their sums for each owner.

Revision 0016. What is stored already is counted in characters.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("responses", "bytes"),
    ("conversations", "bytes"),
    ("owners", "responses"),
    ("owners", "response_bytes"),
)
_BOTH = (
    "(SELECT tenant, person, bytes FROM responses UNION ALL "
    "SELECT tenant, person, bytes FROM conversations) AS stored"
)
_OF_OWNER = f"FROM {_BOTH} WHERE stored.tenant = owners.tenant AND stored.person = owners.person"


def upgrade() -> None:
    for table, name in _COLUMNS:
        column = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        op.add_column(table, column)
    op.execute(
        "UPDATE responses SET bytes = LENGTH(CAST(input AS TEXT)) + LENGTH(CAST(response AS TEXT))"
    )
    op.execute(
        "UPDATE conversations SET bytes = LENGTH(CAST(details AS TEXT)) + LENGTH(CAST(items AS TEXT))"
    )
    op.execute(
        "INSERT INTO owners (tenant, person, revision, items, cubes) "
        f"SELECT DISTINCT tenant, person, {time.time_ns() // 1000}, 0, 0 FROM {_BOTH} WHERE NOT EXISTS "
        "(SELECT 1 FROM owners o WHERE o.tenant = stored.tenant AND o.person = stored.person)"
    )
    op.execute(
        f"UPDATE owners SET responses = (SELECT COUNT(*) {_OF_OWNER}), "
        f"response_bytes = (SELECT COALESCE(SUM(bytes), 0) {_OF_OWNER})"
    )


def downgrade() -> None:
    for table, name in _COLUMNS:
        op.drop_column(table, name)
