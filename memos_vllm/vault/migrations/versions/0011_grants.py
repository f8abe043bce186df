"""Grants on cubes and groups of people; access lists become grants.

Revision 0011.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_READ, _USE, _WRITE = 1, 2, 4
_BATCH = 500
_LONGEST_NAME = 256


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("tenant", "name", name="uq_groups_name"),
    )
    op.create_table(
        "group_members",
        sa.Column(
            "group_id",
            sa.String(64),
            sa.ForeignKey("groups.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("person", sa.String(256), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
    )
    op.create_index("ix_group_members_person", "group_members", ["tenant", "person"])
    op.create_table(
        "grants",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column(
            "cube_id", sa.String(64), sa.ForeignKey("cubes.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("group_id", sa.String(64), sa.ForeignKey("groups.id", ondelete="CASCADE")),
        sa.Column("effect", sa.String(8), nullable=False),
        sa.Column("permissions", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger()),
        sa.Column("origin", sa.String(8), nullable=False),
        sa.Column("made_by", sa.String(256)),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint(
            "cube_id", "kind", "subject", "effect", "origin", name="uq_grants_subject"
        ),
    )
    op.create_index("ix_grants_subject", "grants", ["tenant", "kind", "subject"])
    op.create_index("ix_grants_group_id", "grants", ["group_id"])
    op.add_column(
        "cubes", sa.Column("is_open", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    _take_over()


def _take_over() -> None:
    """Make grants of the access lists of shared cubes; a person's cube ignores its list."""
    connection = op.get_bind()
    cubes = connection.execute(sa.text("SELECT id, tenant, access FROM cubes WHERE person = ''"))
    opened: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for cube, tenant, stored in cubes.all():
        access = (json.loads(stored) if isinstance(stored, str) else stored) or {}
        readers = access.get("readers")
        if readers is None:
            opened.append({"id": cube})
        # A longer name is no person's.
        for reader in dict.fromkeys(name for name in readers or () if len(name) <= _LONGEST_NAME):
            made.append(_grant(cube, tenant, "person", reader, _READ | _USE))
        if access.get("writers") == "tenant":
            made.append(_grant(cube, tenant, "tenant", "", _WRITE))
    for start in range(0, len(opened), _BATCH):
        connection.execute(
            sa.text("UPDATE cubes SET is_open = true WHERE id = :id"),
            opened[start : start + _BATCH],
        )
    for start in range(0, len(made), _BATCH):
        connection.execute(
            sa.text(
                "INSERT INTO grants (id, cube_id, tenant, kind, subject, effect, permissions, "
                "origin, created_us) VALUES (:id, :cube, :tenant, :kind, :subject, 'allow', "
                ":permissions, 'access', :created)"
            ),
            made[start : start + _BATCH],
        )


def _grant(cube: str, tenant: str, kind: str, subject: str, permissions: int) -> dict[str, Any]:
    return {
        "id": f"grant_{secrets.token_hex(16)}",
        "cube": cube,
        "tenant": tenant,
        "kind": kind,
        "subject": subject,
        "permissions": permissions,
        "created": time.time_ns() // 1000,
    }


def downgrade() -> None:
    op.drop_column("cubes", "is_open")
    op.drop_table("grants")
    op.drop_table("group_members")
    op.drop_table("groups")
