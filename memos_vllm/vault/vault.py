"""MemVault: cubes and their versions.

Every method takes the caller's `Principal`.  A version is immutable and content-addressed; a cube is a
header that points to its head version.  A change writes, in one transaction: the version, the head, the
item rows, the owner's revision, the outbox (pending writes to Chroma) and the audit record.  The payload file
is durable before that transaction commits: a kill at any point leaves the old state or the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.config.redaction import RedactionConfig
from memos_vllm.cube.ids import (
    CubeId,
    Sha256,
    TenantId,
    VersionId,
    new_cube_id,
    now_us,
    version_id,
)
from memos_vllm.cube.model import (
    CubePatch,
    Kind,
    MemCube,
    NewCube,
    Provenance,
    Version,
    VersionDiff,
)
from memos_vllm.errors import Conflict, NotFound, TooLarge
from memos_vllm.governance.permit import Permission, check_history
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.redaction.redactor import Redactors
from memos_vllm.vault import (
    audit,
    bundle_guard,
    changes,
    contents,
    deleting,
    derived,
    fence,
    grants,
    idempotency,
    items,
    lookup,
    records,
)
from memos_vllm.vault.contents import Content
from memos_vllm.vault.database import Database
from memos_vllm.vault.derived import Deletion
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, VersionRow

InTransaction = Callable[[Session], None]


class MemVault:
    def __init__(
        self,
        database: Database,
        payloads: PayloadStore,
        *,
        max_items: int = 10_000,
        redactors: Redactors | None = None,
    ) -> None:
        self._redactors = redactors or Redactors(RedactionConfig())
        self._database = database
        self._payloads = payloads
        self._max_items = max_items

    # -- reading ----------------------------------------------------------------------------------

    def get(self, principal: Principal, ref: str, version: str | None = None) -> MemCube:
        """A cube by id or name, with the payload of its head or of another version.

        Raises:
            NotFound, DamagedPayload
        """
        with self._database.read() as session:
            row = lookup.find(session, principal, ref)
            chosen = self._version(session, row, version or row.head_version, principal)
            header = records.header(row, chosen)
        payload = self._content(row, chosen).payload(CubeId(row.id))
        return MemCube(meta=header, payload=payload)

    def file(self, principal: Principal, ref: str, version: str | None = None) -> bytes:
        """Bytes of the payload file. Raises NotFound, DamagedPayload."""
        with self._database.read() as session:
            row = lookup.find(session, principal, ref)
            chosen = self._version(session, row, version or row.head_version, principal)
        return self._content(row, chosen).file(CubeId(row.id))

    def history(self, principal: Principal, ref: str) -> list[Version]:
        """All versions, newest first. Raises NotFound."""
        with self._database.read() as session:
            row = lookup.find(session, principal, ref)
            check_history(principal, row.tenant, row.person)
            return [
                records.version_model(version)
                for version in session.scalars(
                    select(VersionRow)
                    .where(VersionRow.cube_id == row.id)
                    .order_by(VersionRow.sequence.desc())
                )
            ]

    def diff(
        self, principal: Principal, ref: str, older: str, newer: str | None = None
    ) -> VersionDiff:
        return contents.difference(self.get(principal, ref, older), self.get(principal, ref, newer))

    # -- changing ---------------------------------------------------------------------------------

    def create(
        self, principal: Principal, new: NewCube, in_transaction: InTransaction | None = None
    ) -> MemCube:
        """Create a cube, whose text the caller has cut into items.

        `in_transaction` is called inside the transaction; an error that it raises rolls back all.
        """
        return self.create_many(principal, [new], in_transaction=in_transaction)[0]

    def create_many(
        self,
        principal: Principal,
        cubes: Sequence[NewCube],
        idempotency_key: idempotency.IdempotencyKey | None = None,
        in_transaction: InTransaction | None = None,
    ) -> list[MemCube]:
        """Create all cubes or none; a repeated call with `idempotency_key` returns the first call's.

        Raises:
            Conflict: the owner has a cube of that name, or the key was used for another request.
        """
        cubes = [self._redactors.of(principal.tenant).cube(new) for new in cubes]
        try:
            with self._database.write() as session:
                known = (
                    idempotency.recall(session, principal, idempotency_key)
                    if idempotency_key
                    else None
                )
                if known is None:
                    made = [self.create_in(session, principal, new) for new in cubes]
                    if in_transaction:
                        in_transaction(session)
                    if idempotency_key:
                        ids = [cube.meta.id for cube in made]
                        idempotency.remember(session, principal, idempotency_key, ids)
                    return made
            return [self.get(principal, cube_id) for cube_id in known]
        except IntegrityError as error:
            if (
                idempotency_key
                and (first := self._repeated(principal, idempotency_key)) is not None
            ):
                return first
            names = ", ".join(repr(new.meta.name) for new in cubes if new.meta.name)
            raise Conflict(
                f"the owner has a cube of that name already ({names}): update it, or choose another name",
                param="meta.name",
            ) from error

    def update(
        self,
        principal: Principal,
        ref: str,
        patch: CubePatch,
        *,
        if_match: str | None = None,
        in_transaction: InTransaction | None = None,
    ) -> MemCube:
        """A new version with the fields of `patch`; `in_transaction` as for `create`.

        Args:
            if_match: the version that the caller saw; None: any.
        Raises:
            Conflict: the cube was changed meanwhile; the message names the current version.
            Unprocessable: an illegal change, or the cube is frozen.
        """
        patch = self._redactors.of(principal.tenant).patch(patch)
        with _unique_name(), self._database.write() as session:
            return self.update_in(session, principal, ref, patch, if_match, in_transaction)

    def update_in(
        self,
        session: Session,
        principal: Principal,
        ref: str,
        patch: CubePatch,
        if_match: str | None = None,
        in_transaction: InTransaction | None = None,
    ) -> MemCube:
        """`update` in a transaction of the caller, without redaction."""

        def change(row: CubeRow) -> tuple[str, Content | None]:
            if in_transaction:
                in_transaction(session)
            changes.check(session, principal, row, patch)
            changes.set_access(session, principal, row, patch)
            return changes.apply(row, patch, lambda: self._current(session, row), self._max_items)

        return self._change(session, principal, ref, if_match, change, patch.provenance)

    def rollback(
        self, principal: Principal, ref: str, version: str, *, if_match: str | None = None
    ) -> MemCube:
        """Make a new version with the content of an older one; the versions in between stay."""

        origin = Provenance(origin="rollback", note=f"back to {version}")
        with _unique_name(), self._database.write() as session:

            def change(row: CubeRow) -> tuple[str, Content | None]:
                changes.check_open(session, row)
                target = self._version(session, row, version, principal)
                redactor = self._redactors.of(principal.tenant)
                return "rollback", contents.redacted(self._content(row, target), redactor)

            return self._change(session, principal, ref, if_match, change, origin)

    def delete(
        self,
        principal: Principal,
        ref: str,
        *,
        if_match: str | None = None,
        cascade: bool = False,
        remake: bool = False,
    ) -> Deletion:
        """Delete a cube with all versions and items; the outbox deletes its vectors and files.

        Args:
            cascade: delete the cubes derived from it, too; else they are stale. Adapters among them are trained
                again from their other sources.
            remake: train this adapter again, on what its sources hold now.
        Raises:
            Forbidden, Conflict: of this cube or a derived one (frozen); nothing was deleted.
        """
        with self._database.write() as session:
            row = lookup.find(session, principal, ref, lock=True)
            changes.check_current(row, if_match)
            return deleting.delete_in(session, principal, row, cascade, remake)

    # -- inside -----------------------------------------------------------------------------------

    def _repeated(
        self, principal: Principal, idempotency_key: idempotency.IdempotencyKey
    ) -> list[MemCube] | None:
        with self._database.read() as session:
            known = idempotency.recall(session, principal, idempotency_key)
        return None if known is None else [self.get(principal, cube_id) for cube_id in known]

    def create_in(self, session: Session, principal: Principal, new: NewCube) -> MemCube:
        """Create a cube in a transaction of the caller, without redaction."""
        content = contents.of_payload(new.payload, self._max_items)
        meta, created = new.meta, now_us()
        person = changes.owner_of_new(principal, meta)
        changes.check_create(session, principal, person, content.kind)
        row = CubeRow(
            id=new_cube_id(),
            tenant=principal.tenant,
            person=person,
            name=meta.name,
            kind=content.kind,
            model_fingerprint=content.model,
            state=meta.state,
            placement=meta.placement,
            priority=meta.priority,
            tags=list(meta.tags),
            access={},
            head_version="",
            head_sequence=0,
            created_us=created,
            updated_us=created,
            expires_us=changes.expiry(session, principal.tenant, meta, created),
            reads=0,
        )
        session.add(row)
        session.flush()
        grants.set_access(session, principal, row, meta.access)
        items.touch_owner(session, row, cubes=1)
        version = self._commit_version(
            session, principal, row, "create", content, meta.provenance, created
        )
        if meta.provenance.parents:
            derived.record(session, principal, row, meta.provenance)
        detail = {"person": person, "version": version.id, "items": len(content.items)}
        if content.kind is not Kind.EXPLICIT:
            detail |= {"kind": content.kind, "sha256": version.payload_sha256}
        audit.record(session, principal, "cube.create", row.id, detail)
        return MemCube(meta=records.header(row, version), payload=content.payload(CubeId(row.id)))

    def _change(
        self,
        session: Session,
        principal: Principal,
        ref: str,
        if_match: str | None,
        change: Callable[[CubeRow], tuple[str, Content | None]],
        provenance: Provenance | None,
    ) -> MemCube:
        row = lookup.find(session, principal, ref, lock=True)
        lookup.check(session, principal, row, Permission.WRITE)
        bundle_guard.check_free(session, principal, row)
        fence.check(session, principal, row.person)
        changes.check_current(row, if_match)
        current = self._current(session, row)
        action, replaced = change(row)
        content = current if replaced is None else replaced
        if replaced is not None:
            row.model_fingerprint = content.model  # of an older version: checked again
        if len(content.items) > self._max_items:
            raise TooLarge(f"a cube holds at most {self._max_items} items", param="payload")
        moment = max(now_us(), row.updated_us + 1)
        version = self._commit_version(
            session, principal, row, action, content, provenance or Provenance(), moment
        )
        detail = {"person": row.person, "version": version.id, "parent": version.parent}
        audit.record(session, principal, f"cube.{action}", row.id, detail)
        if provenance is not None and provenance.parents:
            derived.record(session, principal, row, provenance)
        derived.check_readers(session, row)
        return MemCube(meta=records.header(row, version), payload=content.payload(CubeId(row.id)))

    def _commit_version(
        self,
        session: Session,
        principal: Principal,
        row: CubeRow,
        action: str,
        content: Content,
        provenance: Provenance,
        moment_us: int,
    ) -> VersionRow:
        tenant, cube = TenantId(row.tenant), CubeId(row.id)
        data = content.file(cube)
        items.touch_owner(session, row, size=len(data))
        items.sync_items(session, row, records.identify(cube, list(content.items)))
        digest = self._payloads.put(tenant, cube, data)
        parent = VersionId(row.head_version) if row.head_version else None
        version = VersionRow(
            id=version_id(cube, parent, digest, moment_us),
            cube_id=cube,
            sequence=row.head_sequence + 1,
            parent=parent,
            author=principal.author,
            action=action,
            created_us=moment_us,
            provenance=provenance.model_dump(mode="json"),
            payload_sha256=digest,
            payload_bytes=len(data),
            header=records.header_then(row),
        )
        session.add(version)
        row.head_version, row.head_sequence, row.updated_us = (
            version.id,
            version.sequence,
            moment_us,
        )
        if parent is not None and digest != self._version(session, row, parent).payload_sha256:
            derived.mark(session, row)
        if content.kind is not Kind.EXPLICIT and parent is not None:
            items.content_changed(session, row)
        session.flush()
        return version

    def _current(self, session: Session, row: CubeRow) -> Content:
        return self._content(row, self._version(session, row, row.head_version))

    def _content(self, row: CubeRow, version: VersionRow) -> Content:
        digest = Sha256(version.payload_sha256)
        data = self._payloads.get(TenantId(row.tenant), CubeId(row.id), digest)
        return contents.of_file(row.kind, data, row.id)

    @staticmethod
    def _version(
        session: Session, row: CubeRow, version: str, reader: Principal | None = None
    ) -> VersionRow:
        """Raises NotFound; Forbidden: an older version, and the reader has the cube from its owner."""
        if reader is not None and version != row.head_version:
            check_history(reader, row.tenant, row.person)
        found = session.get(VersionRow, version)
        if found is None or found.cube_id != row.id:
            raise NotFound(f"cube {row.id} has no version {version!r}", param="version")
        return found


@contextmanager
def _unique_name() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict("the owner has another cube of that name", param="name") from error
