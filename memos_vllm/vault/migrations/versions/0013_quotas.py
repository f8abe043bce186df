"""Sizes of what each owner stores, and the training of each tenant by day.

Revision 0013.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = ("text_bytes", "adapter_bytes", "adapters")
_OF_OWNER = "FROM cubes c WHERE c.tenant = owners.tenant AND c.person = owners.person"
_BYTES = (
    "(SELECT COALESCE(SUM(v.payload_bytes), 0) FROM versions v JOIN cubes c ON v.cube_id = c.id "
    "WHERE c.tenant = owners.tenant AND c.person = owners.person AND c.kind {is_adapter} 'parametric')"
)


def upgrade() -> None:
    for name in _COLUMNS:
        column = sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        op.add_column("owners", column)
    op.execute(
        f"UPDATE owners SET text_bytes = {_BYTES.format(is_adapter='<>')}, "
        f"adapter_bytes = {_BYTES.format(is_adapter='=')}, "
        f"adapters = (SELECT COUNT(*) {_OF_OWNER} AND c.kind = 'parametric')"
    )
    op.create_table(
        "training_use",
        sa.Column("tenant", sa.String(128), primary_key=True),
        sa.Column("day", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("training_use")
    for name in _COLUMNS:
        op.drop_column("owners", name)
