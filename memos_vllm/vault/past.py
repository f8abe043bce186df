"""Memory as of a past moment: the versions that were current then, under the permissions of now.

    cube         exists now and existed then
    version      the newest that was made by then; where the older ones were deleted (forgetting,
                 redaction, retention), the oldest that is stored, limited to items said by then
    text         without what was forgotten since, in any cube, and without what the redaction policy
                 of now keeps out
    permissions  of now: owner, readers, policy, expiry

What was deleted is not stored, so that no moment brings it back.  Forgetting keeps the older versions
while it can be undone: an item of a moment before it counts only if the person's memory still had its
text right after.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.config.reader import LifecycleConfig
from memos_vllm.cube.ids import SHARED, CubeId, to_us
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import (
    ExplicitPayload,
    Header,
    Item,
    Kind,
    MemCube,
    Placement,
    State,
)
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.permit import Permission
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, persona_of
from memos_vllm.governance.redaction.redactor import Redactors
from memos_vllm.vault import contents, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.past_memory import NowAndThen, PastCube, PastMemory
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow as CubeRow
from memos_vllm.vault.tables import VersionRow
from memos_vllm.vault.then import Horizon, content_of, horizons, version_at, versions_at
from memos_vllm.vault.views import CubeFilter

log = logging.getLogger(__name__)


class PastVault:
    def __init__(
        self,
        database: Database,
        payloads: PayloadStore,
        redactors: Redactors,
        config: LifecycleConfig,
    ) -> None:
        self._database, self._payloads, self._redactors = database, payloads, redactors
        self._most_items = config.as_of_items

    def get(self, principal: Principal, ref: str, at_us: int) -> MemCube:
        """A cube as it was, by its id, or by its name now.

        Raises:
            NotFound: absent, not readable by this principal, or made later.
            DamagedPayload
        """
        query = select(CubeRow).where(records.visible_to(principal), CubeRow.created_us <= at_us)
        by_name = query.where(
            CubeRow.name == ref, CubeRow.person.in_((principal.person, SHARED))
        ).order_by(CubeRow.person.desc())
        with self._database.read() as session:
            for statement in (query.where(CubeRow.id == ref), by_name):
                if (row := session.scalars(statement).first()) is not None:
                    return self._shown(session, row, at_us)
        raise NotFound(f"there was no cube {ref!r} here then", param="cube")

    def page(
        self,
        principal: Principal,
        at_us: int,
        where: CubeFilter,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[list[Header], str | None]:
        """Headers as they were, newest first; the id of the last one is the cursor of the next page."""
        query = select(CubeRow).where(
            records.all_visible_to(principal), CubeRow.created_us <= at_us
        )
        if where.person is not None:
            query = query.where(CubeRow.person == where.person)
        if where.shared is not None:
            query = query.where((CubeRow.person == SHARED) == where.shared)
        if cursor:
            query = query.where(CubeRow.id < cursor)  # ids sort by time
        found: list[Header] = []
        with self._database.read() as session:
            rows = session.scalars(
                query.order_by(CubeRow.id.desc()).execution_options(yield_per=200)
            )
            for row in rows:
                version, _ = version_at(session, row, at_us)
                header = _header(row, version)
                if _matches(header, where):
                    found.append(header)
                if len(found) > limit:
                    break
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def memory(self, principal: Principal, at_us: int) -> PastMemory:
        """What this principal's prompts could have held then: the person's memory, the tenant's, and others'
        that is shared with the person now."""
        query = (
            select(CubeRow)
            .where(records.all_visible_to(principal, Permission.USE))
            .order_by(CubeRow.created_us.desc(), CubeRow.id.desc())
        )
        with self._database.read() as session:
            rows = [row for row in session.scalars(query) if not records.is_ended(row)]
            then = [row for row in rows if row.created_us <= at_us]
            versions = versions_at(session, then, at_us)
            limits = horizons(
                session, self._payloads, principal.tenant, at_us, {r.person for r in then}
            )
        cubes: list[PastCube] = []
        adapters: set[str] = set()
        is_current = all(row.created_us <= at_us or not _in_use(row) for row in rows)
        left = self._most_items
        is_cut = False
        for row in then:
            version, is_whole = versions[row.id]
            state, _, _, tags, _ = _fields(row, version)
            if state not in READABLE:
                is_current = is_current and not _in_use(row)
                continue
            if row.kind == Kind.PARAMETRIC:
                is_head = version.id == row.head_version
                adapters |= {row.id} if is_head else set()
                continue
            if row.kind != Kind.EXPLICIT or not _fits(principal, tags):
                continue
            if left <= 0:
                is_cut = True
                break
            if (cube := self._past(row, version, is_whole, at_us, limits)) is not None:
                cubes.append(cube)
                left -= len(cube.items)
                is_current = is_current and cube.is_head
        cubes.reverse()
        return PastMemory(at_us, tuple(cubes), is_current, frozenset(adapters), is_cut)

    def of_person(self, owner: Principal, at_us: int) -> list[NowAndThen]:
        """All cubes of a person, in every state and persona, oldest first."""
        query = (
            select(CubeRow)
            .where(CubeRow.tenant == owner.tenant, CubeRow.person == owner.person)
            .order_by(CubeRow.created_us, CubeRow.id)
        )
        with self._database.read() as session:
            rows = list(session.scalars(query))
            then = [row for row in rows if row.created_us <= at_us]
            versions = versions_at(session, then, at_us)
            limits = horizons(session, self._payloads, owner.tenant, at_us, {owner.person})
        found = []
        for row in rows:
            past = None
            if row.id in versions:
                version, is_whole = versions[row.id]
                past = self._past(row, version, is_whole, at_us, limits)
            found.append(NowAndThen(row, past, is_later=row.id not in versions))
        return found

    def row(self, owner: Principal, cube: str) -> CubeRow:
        """A person's cube as it is now. Raises NotFound."""
        with self._database.read() as session:
            row = session.get(CubeRow, cube)
        if row is None or (row.tenant, row.person) != (owner.tenant, owner.person):
            raise NotFound(f"there is no cube {cube!r} here", param="cube")
        return row

    # -- inside -----------------------------------------------------------------------------------

    def _shown(self, session: Session, row: CubeRow, at_us: int) -> MemCube:
        version, is_whole = version_at(session, row, at_us)
        header = _header(row, version)
        content = content_of(self._payloads, row, version)
        if row.kind != Kind.EXPLICIT:
            return MemCube(meta=header, payload=content.payload(CubeId(row.id)))
        limits = horizons(session, self._payloads, row.tenant, at_us, {row.person})
        items = self._items(row, version, is_whole, at_us, limits)
        return MemCube(meta=header, payload=ExplicitPayload(content=list(items)))

    def _past(
        self,
        row: CubeRow,
        version: VersionRow,
        is_whole: bool,
        at_us: int,
        limits: Mapping[str, Horizon],
    ) -> PastCube | None:
        """None: its payload is damaged, which costs this cube."""
        is_head = is_whole and version.id == row.head_version
        try:
            items = self._items(row, version, is_whole, at_us, limits)
        except DamagedPayload as error:
            log.error("a damaged version is left out of a past moment: %s", error)
            return None
        state, placement, priority, tags, name = _fields(row, version)
        return PastCube(row, version, items, state, placement, priority, tags, name, is_head)

    def _items(
        self,
        row: CubeRow,
        version: VersionRow,
        is_whole: bool,
        at_us: int,
        limits: Mapping[str, Horizon],
    ) -> tuple[Item, ...]:
        if row.kind != Kind.EXPLICIT:
            return ()
        redactor = self._redactors.of(row.tenant)
        content = contents.redacted(content_of(self._payloads, row, version), redactor)
        items = records.identify(CubeId(row.id), list(content.items))
        horizon = limits.get(row.person)
        return tuple(
            item
            for item in items
            if (is_whole or (item.time is not None and to_us(item.time) <= at_us))
            and (horizon is None or horizon.admits(version, at_us, item))
        )


def _in_use(row: CubeRow) -> bool:
    return State(row.state) in READABLE


def _fits(principal: Principal, tags: Sequence[str]) -> bool:
    persona = persona_of(tags)
    return persona is None or principal.persona in (persona, EVERY_PERSONA)


def _fields(
    row: CubeRow, version: VersionRow
) -> tuple[State, Placement, int, tuple[str, ...], str | None]:
    """(state, placement, priority, tags, name) then; of versions before revision 0012, those of now."""
    then = version.header or records.header_then(row)
    return (
        State(then["state"]),
        Placement(then["placement"]),
        int(then["priority"]),
        tuple(then["tags"]),
        then["name"],
    )


def _header(row: CubeRow, version: VersionRow) -> Header:
    state, placement, priority, tags, name = _fields(row, version)
    change = {
        "state": state,
        "placement": placement,
        "priority": priority,
        "tags": list(tags),
        "name": name,
        "updated": records.version_model(version).created,
        "stale": [],
    }
    return records.header(row, version).model_copy(update=change)


def _matches(header: Header, where: CubeFilter) -> bool:
    return (
        (where.state is None or header.state is where.state)
        and (where.placement is None or header.placement is where.placement)
        and (where.tag is None or where.tag in header.tags)
        and (not where.name_prefix or (header.name or "").startswith(where.name_prefix))
    )
