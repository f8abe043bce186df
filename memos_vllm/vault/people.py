"""People of a tenant who have memory, and how much; for its admin."""

from __future__ import annotations

import dataclasses

from sqlalchemy import select

from memos_vllm.cube.ids import SHARED
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import OwnerRow


@dataclasses.dataclass(frozen=True, slots=True)
class PersonUse:
    person: str
    cubes: int
    items: int
    text_bytes: int
    adapters: int


class People:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, principal: Principal, after: str = "", prefix: str = "", limit: int = 50
    ) -> tuple[list[PersonUse], str | None]:
        """People by name, and the name to pass as `after` for the next page (None: this was the last).

        Raises:
            Forbidden: the key is not an admin's.
        """
        principal.require(Role.ADMIN)
        query = select(OwnerRow).where(
            OwnerRow.tenant == principal.tenant, OwnerRow.person != SHARED, OwnerRow.person > after
        )
        if prefix:
            query = query.where(OwnerRow.person.startswith(prefix, autoescape=True))
        with self._database.read() as session:
            rows = list(session.scalars(query.order_by(OwnerRow.person).limit(limit + 1)))
            found = [
                PersonUse(row.person, row.cubes, row.items, row.text_bytes, row.adapters)
                for row in rows[:limit]
            ]
        return found, found[-1].person if len(rows) > limit else None
