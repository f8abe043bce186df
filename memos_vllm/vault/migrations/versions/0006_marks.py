"""Marks of replies that are no evidence: cut, aborted, filtered, given without memory.

Revision 0006. Replies of older versions have no mark.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("mark", sa.String(16)))


def downgrade() -> None:
    op.drop_column("items", "mark")
