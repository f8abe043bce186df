"""Cubes of an installed bundle change with the bundle alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED
from memos_vllm.errors import Conflict
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow
from memos_vllm.vault.tables import CubeRow

_OPEN = "memos_changes_bundle"


@contextmanager
def changing(session: Session) -> Iterator[None]:
    """Let a transaction change the cubes of bundles."""
    session.info[_OPEN] = True
    try:
        yield
    finally:
        session.info.pop(_OPEN, None)


def check_free(session: Session, principal: Principal, row: CubeRow) -> None:
    """Raise Conflict: the cube belongs to a bundle, and neither MemStore nor the sweep changes it."""
    if row.person != SHARED or principal.is_sweep or session.info.get(_OPEN):
        return
    if (member := session.get(BundleCubeRow, row.id)) is not None:
        bundle = session.get_one(BundleRow, member.bundle_id)
        raise Conflict(
            f"the cube belongs to the bundle {bundle.name} {bundle.version} and changes with it: `memos store update`, "
            "`rollback` or `uninstall`",
            param="cube",
        )
