"""What was made from a cube: edges between cubes, and how a derived cube is made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from sqlalchemy import select

from memos_vllm.cube.ids import TenantId
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, DerivedRow


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """One cube was made from another."""

    source: str
    version: str
    """Version of the source that it was made from."""
    made: str


class Lineage:
    def __init__(self, database: Database) -> None:
        self._database = database

    def below(self, tenant: TenantId, cubes: Collection[str]) -> list[Edge]:
        """All edges below cubes."""
        found: list[Edge] = []
        seen, level = set(cubes), list(cubes)
        with self._database.read() as session:
            while level:
                rows = session.execute(
                    select(DerivedRow.source_id, DerivedRow.version, DerivedRow.cube_id)
                    .join(CubeRow, CubeRow.id == DerivedRow.cube_id)
                    .where(CubeRow.tenant == tenant, DerivedRow.source_id.in_(level))
                )
                edges = [Edge(*row) for row in rows]
                found += edges
                level = list(dict.fromkeys(e.made for e in edges if e.made not in seen))
                seen.update(level)
        return found
