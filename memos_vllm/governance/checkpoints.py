"""Signed checkpoints of the audit log: one append-only file of JSON lines per tenant.

A checkpoint is the size and the Merkle root of a tenant's log, signed with Ed25519: an auditor checks it
with the public key alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from memos_vllm.cube.ids import canonical_json
from memos_vllm.errors import ConfigError
from memos_vllm.governance.audit_keys import AuditKey, is_signed

log = logging.getLogger(__name__)
_TAIL_BYTES = 16_384
"""More than one line."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    tenant: str
    size: int
    root: str
    at_us: int
    key: str
    signature: str

    @classmethod
    def signed(cls, key: AuditKey, tenant: str, size: int, root: str, at_us: int) -> Checkpoint:
        draft = cls(tenant, size, root, at_us, key.id, "")
        return dataclasses.replace(draft, signature=key.sign(draft.message()))

    @classmethod
    def parse(cls, fields: Any) -> Checkpoint:
        """Raises ValueError: it is no checkpoint."""
        texts, numbers = ("tenant", "root", "key", "signature"), ("size", "at_us")
        if not isinstance(fields, Mapping) or set(fields) != {*texts, *numbers}:
            raise ValueError("not a checkpoint: other fields")
        is_typed = all(isinstance(fields[name], str) for name in texts) and all(
            type(fields[name]) is int and fields[name] >= 0 for name in numbers
        )
        if not is_typed:
            raise ValueError("not a checkpoint: a field of another type")
        return cls(**fields)

    def message(self) -> bytes:
        fields = [self.tenant, self.size, self.root, self.at_us, self.key]
        return canonical_json(["memos-audit-checkpoint-1", *fields])

    def line(self) -> bytes:
        return canonical_json(dataclasses.asdict(self)) + b"\n"

    def is_authentic(self, publics: Mapping[str, str]) -> bool:
        return is_signed(publics, self.key, self.message(), self.signature)


class CheckpointFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, tenant: str) -> list[Checkpoint]:
        """All checkpoints of a tenant, oldest first. Raises ConfigError."""
        try:
            return read_lines(self._path(tenant).read_bytes().splitlines())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"cannot read checkpoints in {self._folder}: {error}") from error

    def last(self, tenant: str) -> Checkpoint | None:
        """The newest checkpoint. Raises ConfigError."""
        return max(self.tail(tenant), key=lambda each: each.at_us, default=None)

    def tail(self, tenant: str) -> list[Checkpoint]:
        """The newest checkpoints, from the end of the file. Raises ConfigError."""
        try:
            with self._path(tenant).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = file.seek(max(size - _TAIL_BYTES, 0))
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"cannot read checkpoints in {self._folder}: {error}") from error
        return read_lines(lines[1:] if start else lines)

    def append(self, checkpoint: Checkpoint) -> None:
        """Append durably. Raises ConfigError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path(checkpoint.tenant).open("a+b") as file:
                if file.seek(0, os.SEEK_END) > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a loss of power cut the last line
                        file.write(b"\n")
                file.write(checkpoint.line())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"cannot write checkpoints in {self._folder}: {error}") from error

    def _path(self, tenant: str) -> Path:
        return self._folder / file_name(tenant)


def file_name(tenant: str) -> str:
    """Of a tenant's checkpoints."""
    return f"{hashlib.sha256(tenant.encode()).hexdigest()[:32]}.jsonl"


def read_copy(path: Path, tenant: str) -> list[Checkpoint]:
    """Checkpoints of a tenant in a copy: a folder as this server writes it, or one file of lines.

    Raises:
        ConfigError: it cannot be read.
    """
    if path.is_dir():
        return CheckpointFiles(path).read(tenant)
    try:
        found = read_lines(path.read_bytes().splitlines())
    except OSError as error:
        raise ConfigError(f"cannot read the checkpoints {path}: {error.strerror}") from error
    return [each for each in found if each.tenant == tenant]


def read_lines(lines: Iterable[bytes]) -> list[Checkpoint]:
    """Checkpoints of JSON lines; a damaged line, which proves no more than a missing one, is logged."""
    found = []
    for line in lines:
        if not line.strip():
            continue
        try:
            found.append(Checkpoint.parse(json.loads(line)))
        except (ValueError, RecursionError) as error:
            log.warning("a line of the audit checkpoints is damaged: %s", error)
    return found
