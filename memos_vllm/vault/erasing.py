"""The transaction that erases a person from the database, and the counts that show it.

It deletes all rows of the person at once, so that an erasure is wholly before or behind any other write.
What lies outside of the database is deleted afterwards by a job, from the ids that the transaction leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, PersonId, TenantId, new_id, now_us
from memos_vllm.cube.model import State
from memos_vllm.errors import Conflict
from memos_vllm.governance.permit import SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import (
    audit,
    audit_legacy,
    deleting,
    derived,
    fence,
    grants,
    items,
    records,
    traces,
)
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditPersonRow
from memos_vllm.vault.bundle_tables import BundleRow
from memos_vllm.vault.erasure_tables import ErasureRow
from memos_vllm.vault.erasures import ErasureState
from memos_vllm.vault.jobs import ERASE, PURGE, READ, REMEMBER, JobStore
from memos_vllm.vault.response_tables import ConversationRow, ResponseRow
from memos_vllm.vault.tables import (
    CubeRow,
    DerivedRow,
    GrantRow,
    GroupMemberRow,
    ItemRow,
    JobRow,
    MentionRow,
    OutboxRow,
    OwnerRow,
    PendingTurnRow,
    PersonTokenRow,
    PlanRow,
    RestoreRow,
    TransformRow,
    TransformSourceRow,
    VersionRow,
)
from memos_vllm.vault.transform_rows import forget_jobs_of

_BATCH = 500
_ERASED = "erased"
_EXPORTS = ("bundle.export", "person.export", "cube.export", "audit.export")


def begin(
    session: Session,
    caller: Principal,
    person: PersonId,
    *,
    keep_frozen: bool,
    scopes_before: Sequence[str],
) -> str:
    """Erase a person's rows, and queue the job for the rest.

    Args:
        keep_frozen: keep frozen cubes and what they need; else they are a conflict.
        scopes_before: scopes of the KV that is stored for the person up to now, one for each secret.

    Returns:
        The id of the erasure; that of a running one where nothing of the person is new since.
    Raises:
        Conflict: frozen cubes; nothing was erased.
    """
    tenant = caller.tenant
    subject, serial = fence.close(session, tenant, person)
    chosen, held = _chosen(session, tenant, person)
    if held and not keep_frozen:
        raise Conflict(
            f"{len(held)} frozen cubes are under a legal hold ({', '.join(held[:5])}): archive them "
            "first, or erase all else with `keep_frozen`",
            param="keep_frozen",
        )
    ids = [row.id for row in chosen]
    erasure = new_id("erasure")
    moment = now_us()
    owners = {row.id: row.person for row in chosen}
    before = counts(session, tenant, person, ids, moment)
    is_new = any(before[name] for name in before if name not in ("outbox", "audit_names"))
    if not is_new and (running := _running(session, tenant, subject)) is not None:
        return running
    orphans = [derived.orphan(session, row, ids) for row in chosen if row.person != person]
    for row in chosen:
        derived.mark(session, row)
        forget_jobs_of(session, row.id)
        items.drop_cube(session, row)
        session.delete(row)
    session.flush()
    _drop_rows(session, tenant, person, ids)
    deleting.order_again(session, Principal(tenant, Role.ADMIN, "erasure"), orphans)
    _drop_owner(session, tenant, person)
    _unname(session, tenant, person)
    name = audit.pseudonym_of(session, tenant, person)
    work = {
        "cubes": ids,
        "others": {cube: owner for cube, owner in owners.items() if owner != person},
        "held": held,
        "before": before,
        "scopes": list(scopes_before),
        "pseudonym": name,
        "exports": _exports(session, tenant, name),
    }
    session.add(
        ErasureRow(
            id=erasure,
            serial=serial,
            tenant=tenant,
            subject=subject,
            person=person,
            state=ErasureState.RUNNING,
            key_id=caller.key_id,
            progress={"step": "queued"},
            work=work,
            created_us=moment,
        )
    )
    JobStore.add_in(session, ERASE, erasure)
    # By the key alone: the person's own name must not get a new pseudonym here.
    acting = dataclasses.replace(caller, person=SHARED, epoch=None)
    detail: dict[str, Any] = {"cubes": len(ids), "held": held, "serial": serial}
    audit.record(session, acting, "person.erase", erasure, {**detail, "pseudonym": name})
    audit.forget_person(session, tenant, person)
    audit_legacy.redact(session, acting, person, name or erasure)
    return erasure


def counts(
    session: Session, tenant: str, person: str, cubes: Sequence[str], until_us: int
) -> dict[str, int]:
    """Rows of the person by table, as they are now.

    Args:
        cubes: ids of the cubes to erase, or erased.
        until_us: rows of persons that were made later are left out: the person's memory may begin anew.
    """

    def number(table: Any, *where: ColumnElement[bool]) -> int:
        return session.scalar(select(func.count()).select_from(table).where(*where)) or 0

    def of_cubes(table: Any, column: Any) -> int:
        return sum(number(table, column.in_(part)) for part in _parts(cubes))

    mentioned = select(ItemRow.id).where(ItemRow.tenant == tenant, ItemRow.person == person)
    found = {
        "cubes": of_cubes(CubeRow, CubeRow.id),
        "versions": of_cubes(VersionRow, VersionRow.cube_id),
        "items": of_cubes(ItemRow, ItemRow.cube_id),
        "mentions": sum(
            number(
                MentionRow,
                MentionRow.item_id.in_(mentioned.where(ItemRow.cube_id.in_(part))),
            )
            for part in _parts(cubes)
        ),
        "derived": of_cubes(DerivedRow, DerivedRow.cube_id),
        "transform_sources": of_cubes(TransformSourceRow, TransformSourceRow.cube_id),
        "outbox": of_cubes(OutboxRow, OutboxRow.cube_id),
    }
    for name, table in _OF_PERSONS.items():
        found[name] = number(
            table, table.tenant == tenant, table.person == person, table.created_us <= until_us
        )
    found["jobs"] = len(_jobs(session, set(cubes), _turns(session, tenant, person, until_us)))
    found["idempotency"] = len(traces.repeats(session, tenant, set(cubes)))
    found["audit_names"] = number(
        AuditPersonRow, AuditPersonRow.tenant == tenant, AuditPersonRow.person == person
    )
    found["audit_0.1"] = audit_legacy.count(session, tenant, person)
    found["access_lists"] = len(_lists_with(session, tenant, person))
    found["access_lists"] += len(_bundles_with(session, tenant, person))
    found["group_members"] = number(
        GroupMemberRow, GroupMemberRow.tenant == tenant, GroupMemberRow.person == person
    )
    found["grants"] = number(
        GrantRow,
        GrantRow.tenant == tenant,
        or_(
            (GrantRow.kind == SubjectKind.PERSON) & (GrantRow.subject == person),
            GrantRow.made_by == person,
        ),
    )
    found["authors"] = number(VersionRow, *_written_by(tenant, person))
    return found


_OF_PERSONS: dict[str, Any] = {
    "pending_turns": PendingTurnRow,
    "plans": PlanRow,
    "transforms": TransformRow,
    "person_tokens": PersonTokenRow,
    "restores": RestoreRow,
    "responses": ResponseRow,
    "conversations": ConversationRow,
}


def _exports(session: Session, tenant: str, pseudonym: str | None) -> list[dict[str, Any]]:
    """Exports that the log has of the person's memory, or of the whole tenant's."""
    query = select(AuditEntryRow).where(
        AuditEntryRow.tenant == tenant,
        AuditEntryRow.action.in_(_EXPORTS),
        or_(AuditEntryRow.owner == (pseudonym or ""), AuditEntryRow.owner == ""),
    )
    return [
        {"at_us": row.at_us, "action": row.action, "object": row.object, "key": row.key_id}
        for row in session.scalars(query.order_by(AuditEntryRow.at_us))
    ]


def _running(session: Session, tenant: TenantId, subject: str) -> str | None:
    """The person's newest erasure that is not done."""
    query = select(ErasureRow.id).where(
        ErasureRow.tenant == tenant, ErasureRow.subject == subject, ErasureRow.receipt.is_(None)
    )
    return session.scalar(query.order_by(ErasureRow.serial.desc()).limit(1))


def _chosen(
    session: Session, tenant: TenantId, person: PersonId
) -> tuple[list[CubeRow], list[str]]:
    """Cubes to erase, and ids of the frozen ones and of those that frozen ones were made from."""
    own = session.scalars(
        select(CubeRow)
        .where(CubeRow.tenant == tenant, CubeRow.person == person)
        .order_by(CubeRow.created_us, CubeRow.id)
        .with_for_update()
    ).all()
    found: dict[str, CubeRow] = {}
    held: dict[str, None] = {}
    for row in own:
        made = derived.made_from(session, row)
        frozen = [each for each in (row, *made) if records.effective_state(each) is State.FROZEN]
        if frozen:
            held |= dict.fromkeys(each.id for each in (row, *frozen))
        else:
            found |= {each.id: each for each in (row, *made)}
    return [row for row in found.values() if row.id not in held], list(held)


def _drop_rows(session: Session, tenant: TenantId, person: PersonId, cubes: Sequence[str]) -> None:
    chosen = set(cubes)
    for job in _jobs(session, chosen, _turns(session, tenant, person, None)):
        session.delete(job)
    for job_id in session.scalars(
        select(TransformRow.id).where(TransformRow.tenant == tenant, TransformRow.person == person)
    ).all():
        session.execute(delete(JobRow).where(JobRow.subject == job_id))
    for table in _OF_PERSONS.values():
        session.execute(delete(table).where(table.tenant == tenant, table.person == person))
    for part in _parts(cubes):
        session.execute(delete(TransformRow).where(TransformRow.made.in_(part)))
        session.execute(delete(TransformSourceRow).where(TransformSourceRow.cube_id.in_(part)))
        session.execute(delete(DerivedRow).where(DerivedRow.source_id.in_(part)))
    traces.forget(session, tenant, chosen)


def _drop_owner(session: Session, tenant: TenantId, person: PersonId) -> None:
    """Delete the owner's row, unless held cubes need it."""
    left = select(CubeRow.id).where(CubeRow.tenant == tenant, CubeRow.person == person).limit(1)
    if session.scalar(left) is None:
        session.execute(
            delete(OwnerRow).where(OwnerRow.tenant == tenant, OwnerRow.person == person)
        )
    else:
        session.execute(
            update(OwnerRow)
            .where(OwnerRow.tenant == tenant, OwnerRow.person == person)
            .values(responses=0, response_bytes=0)
        )


def _unname(session: Session, tenant: TenantId, person: PersonId) -> None:
    """Remove the name from memory that others own: access lists, and authors of versions."""
    for cube in _lists_with(session, tenant, person):
        readers = [each for each in cube.access["readers"] if each != person]
        cube.access = {**cube.access, "readers": readers}
    for bundle in _bundles_with(session, tenant, person):
        bundle.readers = [each for each in bundle.readers or () if each != person]
    grants.forget_person(session, tenant, person)  # makes the grants of these lists again
    written = select(VersionRow).where(*_written_by(tenant, person))
    for version in session.scalars(written):
        version.author = _ERASED
        version.provenance = {
            key: value
            for key, value in version.provenance.items()
            if key not in ("session", "message_ids", "note")
        }


def _written_by(tenant: str, person: str) -> tuple[ColumnElement[bool], ...]:
    """Versions of others' cubes that the person wrote."""
    others = select(CubeRow.id).where(CubeRow.tenant == tenant, CubeRow.person != person)
    return (VersionRow.author == person, VersionRow.cube_id.in_(others))


def _lists_with(session: Session, tenant: str, person: str) -> list[CubeRow]:
    """Shared cubes that name the person as a reader."""
    shared = select(CubeRow).where(CubeRow.tenant == tenant, CubeRow.person == SHARED)
    return [row for row in session.scalars(shared) if person in (row.access.get("readers") or ())]


def _bundles_with(session: Session, tenant: str, person: str) -> list[BundleRow]:
    """Installed bundles that name the person as a reader."""
    bundles = select(BundleRow).where(BundleRow.tenant == tenant)
    return [row for row in session.scalars(bundles) if person in (row.readers or ())]


def _turns(session: Session, tenant: str, person: str, until_us: int | None) -> set[str]:
    query = select(PendingTurnRow.id).where(
        PendingTurnRow.tenant == tenant, PendingTurnRow.person == person
    )
    if until_us is not None:
        query = query.where(PendingTurnRow.created_us <= until_us)
    return set(session.scalars(query))


def _jobs(session: Session, cubes: set[str], turns: set[str]) -> list[JobRow]:
    """Jobs about these cubes and turns: their subjects hold ids between colons."""
    query = select(JobRow).where(JobRow.name.in_((REMEMBER, READ, PURGE)))
    subjects = cubes | turns
    return [row for row in session.scalars(query) if subjects & set(row.subject.split(":"))]


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]
