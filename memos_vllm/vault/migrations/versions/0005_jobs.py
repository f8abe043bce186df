"""One queue: a job for each pending turn and for each transform that has not ended.

Revision 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = (
    "id, lane, name, subject, state, attempts, not_before_us, leased_until_us, holder, error, "
    "created_us"
)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("lane", sa.String(16), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(600), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("not_before_us", sa.BigInteger(), nullable=False),
        sa.Column("leased_until_us", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("error", sa.String(200), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("name", "subject", name="uq_jobs_subject"),
    )
    op.create_index("ix_jobs_lane", "jobs", ["lane", "state", "created_us"])
    op.execute(
        f"INSERT INTO jobs ({_COLUMNS}) "
        "SELECT 'task_' || id, 'fast', 'remember', id, 'queued', 0, 0, 0, '', '', created_us "
        "FROM pending_turns"
    )
    # A running transform's process used the old lease, `seen_us`; it ended before this migration.
    op.execute(
        f"INSERT INTO jobs ({_COLUMNS}) "
        "SELECT 'task_' || id, 'transform', 'transform', id, state, "
        "CASE state WHEN 'running' THEN 1 ELSE 0 END, 0, 0, '', '', created_us "
        "FROM transforms WHERE state IN ('queued', 'running')"
    )
    op.drop_column("transforms", "seen_us")


def downgrade() -> None:
    op.add_column(
        "transforms", sa.Column("seen_us", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.drop_index("ix_jobs_lane", "jobs")
    op.drop_table("jobs")
