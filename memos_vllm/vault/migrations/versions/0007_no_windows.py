"""No digest of an item's window: the vector of a window is computed from those of its items.

Revision 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("items", "window_sha256")


def downgrade() -> None:
    op.add_column(
        "items", sa.Column("window_sha256", sa.String(64), server_default="", nullable=False)
    )
