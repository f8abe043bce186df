"""Cubes that nobody has needed for long: what decay looks at."""

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
        """Persons' retrieved text that was neither read nor changed since then, the longest idle first.

        With whoever may archive it. What has a priority is kept, and so are claims: the next one about
        the same thing has to find them.
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
