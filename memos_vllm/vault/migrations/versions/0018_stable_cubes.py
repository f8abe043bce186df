"""Cubes of a tenant by their placement: those of every prompt are found without reading all.

Revision 0018.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_cubes_placement", "cubes", ["tenant", "placement"])


def downgrade() -> None:
    op.drop_index("ix_cubes_placement", "cubes")
