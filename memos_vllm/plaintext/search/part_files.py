"""Files of what search derives from a cube's items: token hashes, cues, vectors.  No text.

A search after a start reads them instead of tokenizing the items and asking Chroma for every vector.

A file belongs to one version of a cube, and versions are immutable, so a file is right or superfluous,
never stale.  Layout: `<folder>/<owner>/<cube>-<version>.<kind>`, names are digests.  Content: a checksum
(xxh3, 16 bytes), the length of a JSON header, the header, arrays.  A file that is cut off, damaged, or
of another kind of content is not used; the caller derives it again.

Files of a changed or deleted cube are removed when the outbox reports the change (`forget`), and a save
that crosses it removes its own file (`keep`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from memos_vllm.errors import VaultUnavailable
from memos_vllm.vault.items import Owner, PartKey

log = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]
_DIGEST = 16
_LENGTH = struct.Struct("<Q")


class PartFiles:
    """Files below one folder, which this process can read and write; mode 0600."""

    def __init__(self, folder: Path, current: Callable[[Owner], Collection[PartKey]]) -> None:
        """
        Args:
            current: versions of an owner's cubes that are searched now.
        """
        self._folder = folder
        self._current = current
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="memos-part-files")

    def load(self, owner: Owner, key: PartKey, kind: str) -> Arrays | None:
        """Arrays of a version of a cube, read-only; None: there is no usable file."""
        path = self._path(owner, key, kind)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("cannot read %s: %s", path, error)
            return None
        try:
            return _parsed(data)
        except ValueError:
            log.warning("%s is damaged and is derived again", path)
            return None

    def save(self, owner: Owner, key: PartKey, kind: str, arrays: Arrays) -> None:
        """Write a file; a full disk or a missing permission costs a log line."""
        path = self._path(owner, key, kind)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file, partial = tempfile.mkstemp(prefix=".", dir=path.parent)  # mode 0600
            try:
                with os.fdopen(file, "wb") as out:
                    out.write(_packed(arrays))
                Path(partial).rename(path)
                self._remove_older(path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as error:
            log.warning("cannot write %s: %s", path, error)

    def save_soon(self, owner: Owner, entries: Sequence[tuple[PartKey, str, Arrays]]) -> None:
        """Write files of (version, kind, arrays) in a thread, then remove superfluous ones.

        The check comes last: a change before it is seen there, and one behind it removes the files
        when the outbox reports it.
        """
        if entries:
            with contextlib.suppress(RuntimeError):  # closed
                self._writer.submit(self._save_all, owner, entries)

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown(wait=True)

    def _save_all(self, owner: Owner, entries: Sequence[tuple[PartKey, str, Arrays]]) -> None:
        for key, kind, arrays in entries:
            self.save(owner, key, kind, arrays)
        try:
            current: Collection[PartKey] = self._current(owner)
        except VaultUnavailable as error:
            log.warning("files of derived data are not kept: %s", error)
            current = ()
        self.keep(owner, current)

    def has(self, owner: Owner, key: PartKey, kind: str) -> bool:
        return self._path(owner, key, kind).exists()

    def forget(self, owner: Owner, cube: str, version: str | None) -> None:
        """Remove the files of a cube's other versions.

        Args:
            version: the current one; None: the cube was deleted.

        Raises:
            OSError: not everything could be removed.
        """
        folder = self._owner(owner)
        kept = f"{_digest(cube)}-{_digest(version)}." if version is not None else None
        for path in folder.glob(f"{_digest(cube)}-*"):
            if kept is None or not path.name.startswith(kept):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or never made
            folder.rmdir()

    def count(self, owner: Owner, cubes: Iterable[str]) -> int:
        """Files of these cubes."""
        stems = {_digest(cube) for cube in cubes}
        files = self._files(self._owner(owner))
        return sum(path.name.partition("-")[0] in stems for path in files)

    def keep(self, owner: Owner, keys: Collection[PartKey]) -> None:
        """Remove the files of an owner that belong to no version in `keys`."""
        kept = {_stem(key) for key in keys}
        for path in self._files(self._owner(owner)):
            if path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)

    def drop_folder(self, owner: Owner) -> None:
        """Remove an owner's folder, if it is empty."""
        with contextlib.suppress(OSError):
            self._owner(owner).rmdir()

    def sweep(self, owners: Iterable[Owner]) -> None:
        """Remove the files of versions that are not searched now, and of other owners."""
        by_name = {self._owner(owner).name: owner for owner in owners}
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if (owner := by_name.get(folder.name)) is not None:
                self.keep(owner, self._current(owner))
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_older(self, path: Path) -> None:
        """Remove the file that other code, or another embedder, derived from the same text."""
        family = path.suffix.partition("-")[0]
        for other in path.parent.glob(f"{path.stem}{family}-*"):
            if other != path:
                other.unlink(missing_ok=True)

    def _files(self, folder: Path) -> Iterator[Path]:
        """Finished files: a partial one belongs to a thread that is writing it."""
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if not path.name.startswith("."))

    def _owner(self, owner: Owner) -> Path:
        return self._folder / _digest(f"{len(owner.tenant)}:{owner.tenant}{owner.person}")

    def _path(self, owner: Owner, key: PartKey, kind: str) -> Path:
        return self._owner(owner) / f"{_stem(key)}.{kind}"


def _stem(key: PartKey) -> str:
    return f"{_digest(key.cube_id)}-{_digest(key.version)}"


def _digest(name: str) -> str:
    data = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_DIGEST).hexdigest()


def _packed(arrays: Arrays) -> bytes:
    shapes = [
        {"name": name, "dtype": array.dtype.str, "shape": array.shape}
        for name, array in arrays.items()
    ]
    header = json.dumps(shapes).encode()
    parts = [array.tobytes() for array in arrays.values()]
    body = b"".join([_LENGTH.pack(len(header)), header, *parts])
    return xxhash.xxh3_128_digest(body) + body


def _parsed(data: bytes) -> Arrays:
    """Raises ValueError: damaged."""
    body = memoryview(data)[_DIGEST:]
    if len(body) < _LENGTH.size or xxhash.xxh3_128_digest(body) != data[:_DIGEST]:
        raise ValueError("wrong checksum")
    (length,) = _LENGTH.unpack(body[: _LENGTH.size])
    start = _LENGTH.size + length
    arrays: dict[str, npt.NDArray[Any]] = {}
    for entry in json.loads(bytes(body[_LENGTH.size : start])):
        count = int(np.prod(entry["shape"], dtype=np.int64))
        dtype = np.dtype(entry["dtype"])
        array = np.frombuffer(body, dtype, count, offset=start)
        arrays[entry["name"]] = array.reshape(entry["shape"])
        start += count * dtype.itemsize
    return arrays
