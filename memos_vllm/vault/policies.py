"""Policy in force of each tenant (`policy_of`), and the versions that its admins set by the API.

`policy_of` reads memory only, so that it may be called anywhere, the event loop included.  What another
process sets, and a change of the file, is in force within `REFRESH_SECONDS`; what this process sets, at once.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.config.policies import Isolation, MemoryKind, TenantPolicy
from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import BadRequest, ConfigError, Conflict, Forbidden, VaultUnavailable
from memos_vllm.governance.policies import (
    Layer,
    PolicyFile,
    check_fixed,
    layered,
    read_file,
    read_layer,
)
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import PolicyRow

log = logging.getLogger(__name__)
REFRESH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a tenant's own layer."""

    number: int
    key_id: str
    created_us: int
    body: dict[str, Any]


class PolicyStore:
    def __init__(self, database: Database, config: Config) -> None:
        """
        Raises:
            ConfigError: `governance.policies` names a file that is missing or wrong.
        """
        self._database, self._config = database, config
        path = config.governance.policies
        self._path: Path | None = path.expanduser() if path is not None else None
        self._stamp = self._stamp_of_file()
        self._file = self._read_file()
        self._layers: Mapping[str, Layer] = {}
        self._known: dict[str, TenantPolicy] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        database.policy_of = self.policy_of

    def start(self) -> None:
        """Read the versions in force, and follow later ones. Raises VaultUnavailable."""
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="memos-policies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def policy_of(self, tenant: str) -> TenantPolicy:
        """The policy in force; reads memory only."""
        known = self._known.get(tenant)
        if known is None:
            with self._lock:
                known = layered(self._in_file(tenant), self._layers.get(tenant, {}))
                self._known[tenant] = known
        return known

    def require(self, tenant: str, kind: MemoryKind) -> None:
        """Raise Forbidden: the tenant's policy does not allow this kind of memory."""
        if not self.policy_of(tenant).allows(kind):
            raise Forbidden(f"the tenant's policy (`kinds`) allows no {kind} memory")

    def isolation_of(self, tenant: str) -> Isolation:
        return self.policy_of(tenant).isolation

    def current(self, principal: Principal) -> tuple[TenantPolicy, PolicyVersion | None]:
        """(policy in force, the tenant's own version; None: it has none). Raises Forbidden."""
        principal.require(Role.ADMIN)
        with self._database.read() as session:
            row = _newest(session, principal.tenant)
        self.refresh()
        return self.policy_of(principal.tenant), _version(row) if row is not None else None

    def versions(self, principal: Principal, limit: int = 100) -> list[PolicyVersion]:
        """The tenant's own versions, newest first. Raises Forbidden."""
        principal.require(Role.ADMIN)
        query = select(PolicyRow).where(PolicyRow.tenant == principal.tenant)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(PolicyRow.number.desc()).limit(limit))
            return [_version(row) for row in rows]

    def put(self, principal: Principal, tree: Any) -> PolicyVersion:
        """Set the tenant's own layer, as a new version; an empty one leaves all to the file.

        Raises:
            Forbidden: no admin key, or the file fixes one of the keys.
            BadRequest: an unknown key, or a bad value.
            Conflict: another version was set meanwhile.
        """
        principal.require(Role.ADMIN)
        layer = read_layer(tree)
        try:
            self._check_redaction(layer)
        except ValueError as error:
            raise BadRequest(str(error), param="redaction") from error
        tenant = principal.tenant
        if kept := check_fixed(self._file, self._in_file(tenant), layer):
            names = ", ".join(f"`{key}`" for key in kept)
            raise Forbidden(f"the operator's policy fixes {names}", param=kept[0])
        try:
            with self._database.write() as session:
                newest = _newest(session, tenant)
                row = PolicyRow(
                    tenant=tenant,
                    number=newest.number + 1 if newest is not None else 1,
                    key_id=principal.key_id,
                    created_us=now_us(),
                    body=layer,
                )
                session.add(row)
                detail = {"number": row.number, "keys": sorted(layer)}
                audit.record(session, principal, "policy.set", tenant, detail)
                made = _version(row)
        except IntegrityError as error:
            raise Conflict("another version was set meanwhile: read it and try again") from error
        self.refresh()
        return made

    def refresh(self) -> None:
        """Read the file, if it has changed, and the versions in force. Raises VaultUnavailable."""
        self._refresh_file()
        newest = select(PolicyRow.tenant, func.max(PolicyRow.number).label("number"))
        newest_of = newest.group_by(PolicyRow.tenant).subquery()
        query = select(PolicyRow).join(
            newest_of,
            (PolicyRow.tenant == newest_of.c.tenant) & (PolicyRow.number == newest_of.c.number),
        )
        with self._database.read() as session:
            layers = {row.tenant: row.body for row in session.scalars(query)}
        with self._lock:
            if layers != self._layers:
                self._layers = layers
                self._known = {}

    # -- inside -----------------------------------------------------------------------------------

    def _in_file(self, tenant: str) -> TenantPolicy:
        """The policy without the tenant's own layer."""
        config = self._config
        base = TenantPolicy(
            isolation=config.governance.isolation,
            redaction=config.redaction.policy_of(tenant),
            archive_after_days=config.lifecycle.archive_after_days,
        )
        return layered(base, self._file.default, self._file.tenants.get(tenant, {}))

    def _read_file(self) -> PolicyFile:
        """Raises ConfigError."""
        if self._path is None:
            return PolicyFile()
        file = read_file(self._path)
        try:
            for layer in (file.default, *file.tenants.values()):
                self._check_redaction(layer)
        except ValueError as error:
            raise ConfigError(f"policies {self._path}: {error}") from error
        return file

    def _check_redaction(self, layer: Layer) -> None:
        """Raises ValueError: a kind that no recogniser of the configuration finds."""
        if "redaction" in layer:
            policy = RedactionPolicy.model_validate(layer["redaction"])
            self._config.governance.redaction.check(policy)

    def _stamp_of_file(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found is not None else None

    def _refresh_file(self) -> None:
        stamp = self._stamp_of_file()
        if self._path is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            file = self._read_file()
        except ConfigError as error:
            log.error("the policies stay as they were: %s", error.message)
            return
        with self._lock:
            self._file = file
            self._known = {}
        log.info("the policies were read again from %s", self._path)

    def _follow(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except VaultUnavailable as error:
                log.warning("policies are followed later: %s", error)


def _newest(session: Session, tenant: str) -> PolicyRow | None:
    query = select(PolicyRow).where(PolicyRow.tenant == tenant)
    return session.scalar(query.order_by(PolicyRow.number.desc()).limit(1))


def _version(row: PolicyRow) -> PolicyVersion:
    return PolicyVersion(row.number, row.key_id, row.created_us, dict(row.body))
