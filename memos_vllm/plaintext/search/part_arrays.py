"""Arrays of a derived object, such as an owner index's part, to keep in a file and to restore.

An object is a dataclass whose fields are arrays or such dataclasses; other fields are given when it is
restored.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import memos_vllm.plaintext

Derived = TypeVar("Derived")
_PACKAGES = ("PyStemmer", "regex")
"""Libraries beside this package that decide what the tokens of a text are."""


def hashes_of(tokens: Sequence[str]) -> npt.NDArray[np.int64]:
    """(len(tokens),) hashes of 64 bits, the same in every process.

    They need no secret: a collision is a word that its owner could have written anyway, since each
    owner has an index of its own.
    """
    known = {token: _hash(token) for token in dict.fromkeys(tokens)}
    return np.fromiter((known[token] for token in tokens), dtype=np.int64, count=len(tokens))


@functools.lru_cache(maxsize=65536)
def _hash(token: str) -> int:
    data = token.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _kind() -> str:
    """Kind of the files: a digest of the code that derives them, so that other code derives again."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}".encode())
    for path in sorted(Path(str(memos_vllm.plaintext.__file__)).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"words-{digest.hexdigest()[:16]}"


KIND = _kind()


def arrays_of(derived: Any, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Arrays of a dataclass by the paths of their fields, such as `tokens.hashes`."""
    found: dict[str, npt.NDArray[Any]] = {}
    for field in dataclasses.fields(derived):
        value = getattr(derived, field.name)
        if isinstance(value, np.ndarray):
            found[prefix + field.name] = value
        elif dataclasses.is_dataclass(value):
            found |= arrays_of(value, f"{prefix}{field.name}.")
    return found


@functools.cache
def _types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def restored(
    kind: type[Derived], arrays: Mapping[str, npt.NDArray[Any]], given: Mapping[str, Any]
) -> Derived | None:
    """The dataclass with these arrays; None: one is missing.

    Args:
        given: the other fields.
    """
    types = _types(kind)  # type: ignore[arg-type]  # types are hashable
    values: dict[str, Any] = dict(given)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            continue
        if field.name in arrays:
            values[field.name] = arrays[field.name]
            continue
        inner = {
            name.removeprefix(f"{field.name}."): array
            for name, array in arrays.items()
            if name.startswith(f"{field.name}.")
        }
        value = restored(types[field.name], inner, {}) if inner else None
        if value is None:
            return None
        values[field.name] = value
    return kind(**values)
