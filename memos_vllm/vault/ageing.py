"""Query for idle cubes, which decay archives."""

from __future__ import annotations

from sqlalchemy import func, not_, or_, select

from memos_vllm.cube.ids import SHARED, CubeId, PersonId, TenantId
from memos_vllm.cube.model import Kind, Placement, State
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow


class Ageing:
    def __init__(self, database: Database) -> None:
        self._database = database

    def idle(self, before_us: int, limit: int = 100) -> list[tuple[Principal, CubeId]]:
        """Persons' retrieved cubes of text, neither read nor changed since a time, longest idle first.

        Cubes with a priority are left out, and so are cubes of facts: consolidation of the next claim
        about the same subject has to find them.

        Returns:
            (owner, cube) pairs.
        """
        used = func.coalesce(CubeRow.last_read_us, CubeRow.updated_us)
        query = (
            select(CubeRow)
            .where(
                CubeRow.kind == Kind.EXPLICIT,
                CubeRow.state == State.ACTIVATED,
                CubeRow.placement == Placement.RETRIEVED,
                CubeRow.person != SHARED,
                CubeRow.priority <= 0,
                or_(CubeRow.name.is_(None), not_(CubeRow.name.regexp_match("^facts[#~]"))),
                CubeRow.updated_us < before_us,
                used < before_us,
            )
            .order_by(used, CubeRow.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return [
                (
                    Principal(TenantId(row.tenant), Role.WRITER, "decay", PersonId(row.person)),
                    CubeId(row.id),
                )
                for row in session.scalars(query)
            ]
