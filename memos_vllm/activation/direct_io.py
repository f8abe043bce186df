"""Read files with O_DIRECT, unless they are in the page cache.

A read through the page cache costs more processor time than disk time: on two cores that compute
attention, 140 MB of KV took six times the processor time of a direct read.  Pages that the cache has
are copied out of it, and so is every file where the file system has no direct reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from memos_vllm.errors import DamagedPayload

_BLOCK = 4096
"""No known disk has larger logical blocks; if one has, it refuses the read, and the cache serves it."""
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.EFAULT)
_CACHED = 0.5
"""Share of a file's pages in the page cache from which on the whole file is read through it."""
_LOOKED_AT = 1 << 20
_RATE_CHUNK = 1 << 20
_RATE_CHUNKS = 16
_SHORT = "the file is shorter than its header says"
_mincore: Any = ctypes.CDLL(None, use_errno=True).mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Scratch:
    """Memory for one layer, reused: the page faults of fresh memory cost more than a read."""

    def __init__(self, pinned: bool = False) -> None:
        self._pinned = pinned
        self._tensor = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> torch.Tensor:
        """(size,) bytes from the start of a page; they overwrite those of the last call."""
        start = -self._tensor.data_ptr() % _BLOCK
        if self._tensor.numel() < start + size:
            room = size + _BLOCK
            self._tensor = torch.empty(room, dtype=torch.uint8, pin_memory=self._pinned)
            start = -self._tensor.data_ptr() % _BLOCK
        return self._tensor[start : start + size]


class FileBytes(contextlib.AbstractContextManager["FileBytes"]):
    """An open file. Several threads may read at a time, each into its own scratch."""

    def __init__(self, path: Path, past_cache: bool = False) -> None:
        """
        Args:
            path: of the file.
            past_cache: it is on a disk, and its bytes are not read again soon: use O_DIRECT.

        Raises:
            OSError: the file does not exist or cannot be opened.
        """
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._direct: int | None = None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self.size = os.fstat(self._file).st_size
            if past_cache and cached_share(self._file, self.size) < _CACHED:
                with contextlib.suppress(OSError):  # the file system has no direct reads
                    self._direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            on_error.pop_all()

    def read(self, start: int, size: int, scratch: Scratch) -> torch.Tensor:
        """(size,) bytes of the file from `start` on, valid until the next use of `scratch`.

        Raises:
            DamagedPayload: the file is shorter.
            OSError: the file cannot be read.
        """
        if self._direct is not None:
            try:
                return self._read_direct(self._direct, start, size, scratch)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
        raw = scratch.take(size)
        view, done = plain(raw), 0
        while done < size:
            count = os.preadv(self._file, [view[done:]], start + done)
            if not count:
                raise DamagedPayload(_SHORT)
            done += count
        return raw

    def will_need(self, start: int, size: int) -> None:
        """Have the system read these bytes into the page cache in the background."""
        if self._direct is None:
            os.posix_fadvise(self._file, start, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self._file)
        if self._direct is not None:
            os.close(self._direct)

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _read_direct(file: int, start: int, size: int, scratch: Scratch) -> torch.Tensor:
        """Read whole blocks, as O_DIRECT requires; the last block of the file may be short."""
        before = start % _BLOCK
        raw = scratch.take(-(-(before + size) // _BLOCK) * _BLOCK)
        view, done = plain(raw), 0
        while done < before + size:
            count = os.preadv(file, [view[done:]], start - before + done)
            done += count
            if not count or (count % _BLOCK and done < before + size):
                raise DamagedPayload(_SHORT)
        return raw[before : before + size]


def cached_share(file: int, size: int) -> float:
    """Share of an open file's pages in the page cache, from 0 to 1; 1 where it is unknown.

    Looks at the middle of the file: reading the header brings in the beginning.
    """
    start = (
        max(size - _LOOKED_AT, 0) // 2 // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    )
    size = min(size - start, _LOOKED_AT)
    try:
        pages = mmap.mmap(file, size, mmap.MAP_PRIVATE, offset=start)
    except (OSError, ValueError):  # an empty file, or one that cannot be mapped
        return 1.0
    with pages:  # never touched: a file that is truncated meanwhile does no harm
        first = ctypes.c_char.from_buffer(pages)
        known = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        try:
            failed = _mincore(ctypes.addressof(first), size, known)
        finally:
            del first  # it keeps the mapping from being closed
    return 1.0 if failed else sum(page & 1 for page in known) / len(known)


def forget_pages(path: Path) -> None:
    """Drop a file from the page cache, so that it is read from the disk. Raises OSError."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def read_rate(folder: Path) -> tuple[int, float]:
    """(bytes, seconds) of a read from a folder, past the page cache. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = Scratch()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp") as file:
        file.write(os.urandom(_RATE_CHUNK) * _RATE_CHUNKS)
        file.flush()
        path = Path(file.name)
        forget_pages(path)
        started = time.perf_counter()
        with FileBytes(path, past_cache=True) as again:
            for i in range(_RATE_CHUNKS):
                again.read(i * _RATE_CHUNK, _RATE_CHUNK, scratch)
        return _RATE_CHUNK * _RATE_CHUNKS, time.perf_counter() - started


def plain(raw: torch.Tensor) -> memoryview:
    """View the bytes of a tensor of uint8 on the CPU, without a copy."""
    array: Any = raw.numpy()
    return memoryview(array)
