"""Payload files: written to a temporary name, fsynced, renamed, checked on every read.

A file is named by the SHA-256 of its bytes and lies in its cube's own folder: deleting a cube deletes a
folder, and no two tenants share a file or can time one another's.  Any fsspec URL works; stores other
than a local disk write whole objects, which are as atomic as a rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from memos_vllm.cube.ids import CubeId, Sha256, TenantId, sha256
from memos_vllm.errors import DamagedPayload, VaultUnavailable


class PayloadStore:
    def __init__(self, url: str) -> None:
        self._fs: Any
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._is_local = _is_local(self._fs)

    def put(self, tenant: TenantId, cube: CubeId, data: bytes) -> Sha256:
        """Store bytes durably and return their digest. Storing the same bytes again costs nothing."""
        digest = sha256(data)
        path = self._path(tenant, cube, digest)
        try:
            if self._fs.exists(path):
                return digest
            if self._is_local:
                _write_durably(Path(path), data)
            else:
                self._fs.pipe_file(path, data)
        except OSError as error:
            raise VaultUnavailable(f"cannot store a payload: {error}") from error
        return digest

    def get(self, tenant: TenantId, cube: CubeId, digest: Sha256) -> bytes:
        """The bytes.

        Raises:
            DamagedPayload: missing, or not the bytes that were stored; never an empty payload.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(tenant, cube, digest))
        except FileNotFoundError as error:
            raise DamagedPayload(f"the payload {digest[:12]} of cube {cube} is missing") from error
        except OSError as error:
            raise VaultUnavailable(f"cannot read a payload: {error}") from error
        if sha256(data) != digest:
            raise DamagedPayload(
                f"the payload {digest[:12]} of cube {cube} is damaged: its checksum differs. "
                "Older versions may be intact: see /versions, and roll back to one"
            )
        return data

    def delete(self, tenant: TenantId, cube: CubeId, digest: Sha256) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(tenant, cube, digest))

    def count(self, tenant: TenantId, cube: CubeId) -> int:
        """Number of a cube's files. Raises VaultUnavailable."""
        try:
            return len(self._fs.find(self._folder(tenant, cube)))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise VaultUnavailable(f"cannot list payloads: {error}") from error

    def delete_cube(self, tenant: TenantId, cube: CubeId) -> None:
        """Remove every payload of a cube, temporary files included."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._folder(tenant, cube), recursive=True)

    def _folder(self, tenant: TenantId, cube: CubeId) -> str:
        # A tenant's name may hold anything; its digest is safe in a path.
        owner = hashlib.sha256(tenant.encode()).hexdigest()[:16]
        return f"{self._root.rstrip('/')}/{owner}/{cube}"

    def _path(self, tenant: TenantId, cube: CubeId, digest: Sha256) -> str:
        return f"{self._folder(tenant, cube)}/{digest}.json"


def _is_local(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "file" in (protocol if isinstance(protocol, tuple | list) else (protocol,))


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
