"""One segment's KV as a safetensors file: one tensor `kv`, (layers, 2, tokens, kv_heads, head_dim).

The layout on disk is token by token, independent of the engine's block layout, so that another block
size, another backend or another process can use it.  Layers are read and written one by one: a layer
is read into one small buffer, its checksum is checked, and it is copied into the paged cache while it
is still in the processor's cache.  Files are read, never mapped: a disk that fails, or a file that is
truncated meanwhile, is an error here and not a signal that ends the engine.

A file is never changed, only made and wiped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from xxhash import xxh3_128_hexdigest

from memos_vllm.activation.direct_io import FileBytes, Scratch, plain
from memos_vllm.activation.erase import LENGTH_BYTES, sync
from memos_vllm.errors import DamagedPayload

_LONGEST_HEADER = 1 << 20
_CHECKSUM_CHARACTERS = 32
_USUAL_HEADER = 4096
_COPIED_AT_ONCE = 1 << 20
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    tokens: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def layer_bytes(self) -> int:
        return 2 * self.tokens * self.heads * self.head_dim * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return self.layers * self.layer_bytes

    def sizes(self) -> list[int]:
        return [self.layers, 2, self.tokens, self.heads, self.head_dim]


class SegmentReader(contextlib.AbstractContextManager["SegmentReader"]):
    """An open segment.

    Raises:
        DamagedPayload: the file is not a whole segment.
        OSError: the file does not exist or cannot be read.
    """

    def __init__(self, path: Path, past_cache: bool = False) -> None:
        """
        Args:
            path: of the file.
            past_cache: as for `FileBytes`.
        """
        self._file = FileBytes(path, past_cache)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._file.close)
            self.metadata, self.shape, self._checksums = self._read_header()
            self._data = self._file.size - self.shape.bytes
            on_error.pop_all()

    def layers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """Every layer in order, as `layer` gives it."""
        for index in range(self.shape.layers):
            yield self.layer(index, scratch)

    def layer(self, index: int, scratch: Scratch) -> torch.Tensor:
        """One layer, (2, tokens, heads, head_dim), checked; valid until the next use of `scratch`.

        Several threads may read at a time, each with its own scratch.
        """
        size = self.shape.layer_bytes
        raw = self._file.read(self._data + index * size, size, scratch)
        if xxh3_128_hexdigest(plain(raw)) != self._checksums[index]:
            raise DamagedPayload("the checksum does not match")
        return raw.view(self.shape.dtype).view(self.shape.sizes()[1:])

    def will_need(self, index: int) -> None:
        """Have the system read a layer into the page cache in the background."""
        if index < self.shape.layers:
            size = self.shape.layer_bytes
            self._file.will_need(self._data + index * size, size)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_header(self) -> tuple[dict[str, str], Shape, list[str]]:
        size, scratch = self._file.size, Scratch()
        start = bytes(plain(self._file.read(0, min(_USUAL_HEADER, size), scratch)))
        length = int.from_bytes(start[:LENGTH_BYTES], "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - LENGTH_BYTES):
            raise DamagedPayload("the file has no header")
        text = start[LENGTH_BYTES : LENGTH_BYTES + length]
        if len(text) < length:
            text = bytes(plain(self._file.read(LENGTH_BYTES, length, scratch)))
        try:
            tree = json.loads(text)
            metadata, entry = dict(tree["__metadata__"]), tree["kv"]
            layers, two, tokens, heads, head_dim = (int(n) for n in entry["shape"])
            shape = Shape(layers, tokens, heads, head_dim, _DTYPES[entry["dtype"]])
            is_whole = metadata.pop("header") == _digest(shape, metadata)
            checksums = metadata.pop("checksums").split()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamagedPayload(f"the header cannot be read: {error}") from error
        if not is_whole:
            raise DamagedPayload("the header's checksum does not match")
        if two != 2 or min(shape.sizes()) < 1 or len(checksums) != layers:
            raise DamagedPayload("the header does not describe a segment")
        if size != LENGTH_BYTES + length + shape.bytes:
            raise DamagedPayload("the file is not as long as its header says")
        return metadata, shape, checksums


def write(
    path: Path, shape: Shape, layers: Iterable[torch.Tensor], metadata: Mapping[str, str]
) -> int:
    """Write a file, whole or not at all; returns its size in bytes. Durable when it returns.

    Args:
        path: of the new file.
        shape: of the segment.
        layers: each (2, tokens, heads, head_dim) on the CPU; may reuse its memory for the next.
        metadata: for the header.

    Raises:
        OSError: no space, no permission; no file is left behind.
    """
    checksums: list[str] = []
    with _NewFile(path) as file:
        _write(file, _unfinished_header(shape, metadata))
        for layer in layers:
            raw: Any = layer.contiguous().view(torch.uint8).numpy()
            view = memoryview(raw).cast("B")
            checksums.append(xxh3_128_hexdigest(view))
            _write(file, view)
        if len(checksums) != shape.layers:
            raise ValueError(f"{len(checksums)} layers for a shape of {shape.layers}")
        size = file.tell()
        file.seek(0)
        _write(file, _header(shape, metadata, checksums))
    return size


def file_bytes(shape: Shape, metadata: Mapping[str, str]) -> int:
    """Size of a segment's file."""
    return len(_unfinished_header(shape, metadata)) + shape.bytes


def copy(source: Path, target: Path) -> int:
    """Copy a file, whole or not at all; returns its size in bytes. Raises OSError."""
    with source.open("rb") as original, _NewFile(target) as file:
        while chunk := original.read(_COPIED_AT_ONCE):
            _write(file, chunk)
        return file.tell()


def check(path: Path) -> SegmentReader:
    """Read a whole file and check it. Raises DamagedPayload or OSError."""
    with SegmentReader(path) as reader:
        for _ in reader.layers(Scratch()):
            pass
    return reader


def _header(shape: Shape, metadata: Mapping[str, str], checksums: list[str]) -> bytes:
    entry = {
        "dtype": _NAMES[shape.dtype],
        "shape": shape.sizes(),
        "data_offsets": [0, shape.bytes],
    }
    about = {**metadata, "checksums": " ".join(checksums)}
    about["header"] = _digest(shape, about)
    text = json.dumps({"__metadata__": about, "kv": entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _unfinished_header(shape: Shape, metadata: Mapping[str, str]) -> bytes:
    """A header of the final length, without the checksums."""
    return _header(shape, metadata, ["0" * _CHECKSUM_CHARACTERS] * shape.layers)


def _digest(shape: Shape, metadata: Mapping[str, str]) -> str:
    """Checksum of the header."""
    fields = [shape.sizes(), _NAMES[shape.dtype], sorted(metadata.items())]
    return xxh3_128_hexdigest(json.dumps(fields).encode())


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of the data: a raw file may take a part at a time."""
    view, done = memoryview(data), 0
    while done < len(view):
        done += file.write(view[done:])


class _NewFile(contextlib.AbstractContextManager[BinaryIO]):
    """A file that appears under its name, and on the disk, when the block ends without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=".", suffix=".tmp")
        self._temporary = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with self._file:
                if kind is None:
                    os.fsync(self._file.fileno())
            if kind is None:
                self._temporary.replace(self._path)
                sync(str(self._path.parent))
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()
