"""Overwrite and remove files, and find unfinished files of killed writers.

Wiping zeroes a file's first eight bytes before the rest, so a reader that copies from it meanwhile
notices when it reads them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".safetensors"
LENGTH_BYTES = 8
_WIPE_CHUNK = 1 << 22


def wipe(path: Path) -> bool:
    """Overwrite a file with zeros, header first, and remove it; False: it does not exist."""
    try:
        with path.open("r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            file.write(bytes(min(LENGTH_BYTES, size)))
            position = LENGTH_BYTES
            while position < size:
                position += file.write(bytes(min(_WIPE_CHUNK, size - position)))
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def leftovers(folder: Path) -> Iterator[Path]:
    """Unfinished files of writers that were killed."""
    return folder.rglob(".*.tmp")


def sync(path: str) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
