"""Registries of bundles: a folder of OCI image layouts, or an OCI registry by URL.

Both hold, for each bundle, manifests by tag or digest and blobs by digest.  What a registry says is never trusted:
callers get bytes whose digest and size were compared while they were read (`Registry.blob`, `Registry.manifest`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, MemosError, NotFound, TooLarge, Unavailable, Unprocessable
from memos_vllm.memstore.model import MANIFEST, MANIFEST_BYTES, Descriptor, check_name, digest_of

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
REF_NAME = "org.opencontainers.image.ref.name"
_CHUNK = 1 << 20
_INDEX_BYTES = 16 << 20
_HEX = re.compile(r"[0-9a-f]{64}")


class RegistryUnavailable(Unavailable):
    reason = "store"


class Registry(Protocol):
    """Where bundles are published and installed from. All names were checked by `check_name`."""

    def names(self) -> list[str]:
        """Names of all bundles. Raises RegistryUnavailable."""

    def manifest(self, name: str, tag: str) -> bytes:
        """The manifest of a tag, at most MANIFEST_BYTES. Raises NotFound, RegistryUnavailable."""

    def stream(self, name: str, digest: str) -> Iterator[bytes]:
        """The bytes of a blob, or of a manifest that is called by its digest, unchecked."""

    def has_blob(self, name: str, digest: str) -> bool: ...

    def put_blob(self, name: str, data: bytes) -> None: ...

    def put_manifest(self, name: str, tag: str, data: bytes) -> None:
        """Store a manifest whose blobs are stored already, under a tag."""


def blob(registry: Registry, name: str, wanted: Descriptor, limit: int) -> bytes:
    """A blob with the digest and size of its descriptor.

    Raises:
        TooLarge: it says that it is larger than `limit`.
        Unprocessable: the registry sends other bytes.
        NotFound, RegistryUnavailable
    """
    if wanted.size > limit:
        raise TooLarge(
            f"{name}: a layer of {wanted.size} bytes; at most {limit} (`store.bundle_bytes`)"
        )
    return _checked(registry.stream(name, wanted.digest), wanted.digest, wanted.size, name)


def manifest(registry: Registry, name: str, digest: str) -> bytes:
    """A manifest by its digest. Raises as `blob`."""
    return _checked(registry.stream(name, f"manifest:{digest}"), digest, None, name)


def _checked(chunks: Iterator[bytes], digest: str, size: int | None, name: str) -> bytes:
    most = MANIFEST_BYTES if size is None else size
    hasher, parts, read = hashlib.sha256(), [], 0
    for chunk in chunks:
        read += len(chunk)
        if read > most:
            break
        hasher.update(chunk)
        parts.append(chunk)
    if (size is not None and read != size) or read > most:
        raise Unprocessable(f"{name}: the registry sends {digest} with another size than announced")
    if f"sha256:{hasher.hexdigest()}" != digest:
        raise Unprocessable(f"{name}: the registry sends other bytes than {digest}")
    return b"".join(parts)


def opened(location: str, *, insecure: bool = False) -> Registry:
    """A registry by its URL, or a folder.

    Args:
        insecure: allow plain HTTP to another machine.
    Raises:
        BadRequest: neither.
    """
    if location.startswith(("http://", "https://", "oci://")):
        from memos_vllm.memstore.remote import RemoteRegistry

        return RemoteRegistry(location, insecure=insecure)
    return FolderRegistry(Path(location).expanduser())


class FolderRegistry:
    """A folder with one OCI image layout for each bundle."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        try:
            found = [path.name for path in self.root.iterdir() if (path / LAYOUT_FILE).is_file()]
        except OSError as error:
            raise RegistryUnavailable(f"{self.root}: {error.strerror}") from error
        return sorted(name for name in found if _is_name(name))

    def manifest(self, name: str, tag: str) -> bytes:
        for entry in self._tags(name):
            annotations = entry.get("annotations")
            if isinstance(annotations, dict) and annotations.get(REF_NAME) == tag:
                return self._manifest(name, str(entry.get("digest")))
        raise NotFound(f"{self.root} has no {name}:{tag}", param="version")

    def _manifest(self, name: str, digest: str) -> bytes:
        parts, size = [], 0
        for chunk in self.stream(name, digest):
            if (size := size + len(chunk)) > MANIFEST_BYTES:
                raise Unprocessable(f"{name}: a manifest of more than {MANIFEST_BYTES} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def stream(self, name: str, digest: str) -> Iterator[bytes]:
        path = self.path(name, digest.removeprefix("manifest:"))
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except FileNotFoundError as error:
            raise NotFound(f"{self.root} lacks {digest} of {name}", param="name") from error
        except OSError as error:
            raise RegistryUnavailable(f"{path}: {error.strerror}") from error

    def has_blob(self, name: str, digest: str) -> bool:
        return self.path(name, digest).is_file()

    def put_blob(self, name: str, data: bytes) -> None:
        path = self.path(name, digest_of(data))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)

    def put_manifest(self, name: str, tag: str, data: bytes) -> None:
        self.put_blob(name, data)
        layout = self.root / name
        if not (layout / LAYOUT_FILE).exists():
            _write(layout / LAYOUT_FILE, b'{"imageLayoutVersion": "1.0.0"}')
        entries = [
            entry
            for entry in self._tags(name)
            if (entry.get("annotations") or {}).get(REF_NAME) != tag
        ]
        entries.append(
            {
                "mediaType": MANIFEST,
                "digest": digest_of(data),
                "size": len(data),
                "annotations": {REF_NAME: tag},
            }
        )
        index = {"schemaVersion": 2, "manifests": entries}
        _write(layout / INDEX_FILE, json.dumps(index, indent=1).encode())

    def _tags(self, name: str) -> list[dict[str, Any]]:
        path = self.root / name / INDEX_FILE
        try:
            with path.open("rb") as file:
                data = file.read(_INDEX_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryUnavailable(f"{path}: {error.strerror}") from error
        try:
            found = strict_json.parse(data, what=str(path), most_bytes=_INDEX_BYTES)
            return [entry for entry in found["manifests"] if isinstance(entry, dict)]
        except (BadRequest, KeyError, TypeError) as error:
            raise Unprocessable(f"{path}: no index of an OCI image layout") from error

    def tags(self, name: str) -> list[str]:
        found = [entry.get("annotations") for entry in self._tags(name)]
        return [
            str(each[REF_NAME]) for each in found if isinstance(each, dict) and REF_NAME in each
        ]

    def path(self, name: str, digest: str) -> Path:
        """Where a blob lies, or would. Raises Unprocessable: no SHA-256 digest."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or not _HEX.fullmatch(value):
            raise Unprocessable(f"{name}: {digest[:80]!r} is no SHA-256 digest")
        return self.root / name / "blobs" / "sha256" / value


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except MemosError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
