"""Origin of imported cubes: importing a person's archive twice makes each cube once.

Revision 0020.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cubes", sa.Column("origin_id", sa.String(length=64), nullable=True))
    op.create_index("ix_cubes_origin", "cubes", ["tenant", "person", "origin_id"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_cubes_origin", "cubes")
    op.drop_column("cubes", "origin_id")
