"""One segment's KV as a safetensors file: `k` and `v`, each (layers, tokens, kv_heads, head_dim).

The form on disk is token by token, whatever the engine's own block layout, so that another block
size, another backend or another process can use it.  A file is never changed, only made and wiped.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import save_file

from memos_vllm.activation.wiping import LENGTH_BYTES, sync
from memos_vllm.errors import DamagedPayload

_LONGEST_HEADER = 1 << 20
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class SegmentData:
    """The header and tensors of a file, over a buffer that the caller owns.

    Raises:
        DamagedPayload: the buffer is not a whole segment.
    """

    def __init__(self, buffer: Any, size: int) -> None:
        self.metadata, entries, start = _header(bytes(buffer[:LENGTH_BYTES]), buffer, size)
        self.k = _tensor(buffer, entries, "k", start, size)
        self.v = _tensor(buffer, entries, "v", start, size)
        if self.k.shape != self.v.shape or self.k.dim() != 4:
            raise DamagedPayload("k and v do not fit together")

    @property
    def tokens(self) -> int:
        return self.k.shape[1]

    @property
    def bytes(self) -> int:
        return 2 * self.k.numel() * self.k.element_size()

    def verify(self) -> None:
        """Raise DamagedPayload unless the tensors are what was written."""
        if checksum(self.k, self.v) != self.metadata.get("checksum"):
            raise DamagedPayload("the checksum does not match")


class Mapped(contextlib.AbstractContextManager["Mapped"]):
    """A file in shared memory, read in place (there, no read can fail halfway)."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= LENGTH_BYTES:
                raise DamagedPayload("the file is empty")
            self._map = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        self.data = SegmentData(self._map, size)

    def alive(self) -> bool:
        return any(self._map[:LENGTH_BYTES])

    def __exit__(self, *_: object) -> None:
        del self.data
        with contextlib.suppress(BufferError):  # a tensor still looks at it; freed with that
            self._map.close()


def read(path: Path, verify: bool = True) -> SegmentData:
    """A whole file, read into memory of our own and checked.

    Raises:
        DamagedPayload: it is not whole, or was changed.
        OSError: it is not there or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        buffer: Any = torch.empty(max(size, 1), dtype=torch.uint8).numpy()
        view, done = memoryview(buffer), 0
        while done < size and (count := file.readinto(view[done:size])):
            done += count
    if done < size:
        raise DamagedPayload("the file became shorter while it was read")
    data = SegmentData(buffer, size)
    if verify:
        data.verify()
    return data


def read_metadata(path: Path) -> dict[str, str]:
    """The header alone. Raises DamagedPayload or OSError."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        length = file.read(LENGTH_BYTES)
        head = length + file.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
    return _header(length, head, size)[0]


def write(path: Path, k: torch.Tensor, v: torch.Tensor, metadata: Mapping[str, str]) -> int:
    """Make a file, whole or not at all; returns its size in bytes. Durable when it returns.

    Args:
        k, v: (layers, tokens, kv_heads, head_dim), contiguous, on the CPU.
    Raises:
        OSError: no space, no right; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(descriptor)
    try:
        try:
            save_file({"k": k, "v": v}, name, metadata={**metadata, "checksum": checksum(k, v)})
        except Exception as error:  # the library's own class, for I/O errors too
            raise OSError(f"cannot write {path.name}: {error}") from error
        sync(name)
        size = Path(name).stat().st_size
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync(str(path.parent))
    return size


def checksum(k: torch.Tensor, v: torch.Tensor) -> str:
    hasher = blake3()
    for tensor in (k, v):
        raw: Any = tensor.contiguous().view(torch.uint8).numpy()
        hasher.update(memoryview(raw).cast("B"))
    return hasher.hexdigest()


def _header(length: bytes, buffer: Any, size: int) -> tuple[dict[str, str], dict[str, Any], int]:
    count = int.from_bytes(length, "little")
    if not 2 <= count <= min(_LONGEST_HEADER, size - LENGTH_BYTES):
        raise DamagedPayload("there is no header")
    try:
        tree = json.loads(bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + count]))
        metadata = tree.pop("__metadata__")
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedPayload(f"the header cannot be read: {error}") from error
    return metadata, tree, LENGTH_BYTES + count


def _tensor(
    buffer: Any, entries: Mapping[str, Any], name: str, start: int, size: int
) -> torch.Tensor:
    try:
        entry = entries[name]
        dtype = _DTYPES[entry["dtype"]]
        shape = [int(n) for n in entry["shape"]]
        begin, end = (start + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedPayload(f"the header does not describe {name!r}") from error
    count = 1
    for n in shape:
        count *= n
    if not start <= begin <= end <= size or end - begin != count * dtype.itemsize or count <= 0:
        raise DamagedPayload(f"{name!r} is not whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the buffer is read-only, and nobody writes to it
        return torch.frombuffer(buffer, dtype=dtype, count=count, offset=begin).view(shape)
