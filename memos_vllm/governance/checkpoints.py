"""Signed checkpoints of the audit log: one append-only file of JSON lines per tenant."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from memos_vllm.cube.ids import canonical_json
from memos_vllm.errors import ConfigError
from memos_vllm.governance.audit_keys import AuditKey, is_signed


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

    def message(self) -> bytes:
        fields = [self.tenant, self.size, self.root, self.at_us, self.key]
        return canonical_json(["memos-audit-checkpoint-1", *fields])

    def is_authentic(self, publics: Mapping[str, str]) -> bool:
        return is_signed(publics, self.key, self.message(), self.signature)


class CheckpointFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, tenant: str) -> list[Checkpoint]:
        """All checkpoints of a tenant, oldest first. Raises ConfigError."""
        try:
            lines = self._path(tenant).read_text("utf-8").splitlines()
            return [Checkpoint(**json.loads(line)) for line in lines]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"cannot read checkpoints in {self._folder}: {error}") from error

    def append(self, checkpoint: Checkpoint) -> None:
        """Append durably. Raises ConfigError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path(checkpoint.tenant).open("ab") as file:
                file.write(canonical_json(dataclasses.asdict(checkpoint)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"cannot write checkpoints in {self._folder}: {error}") from error

    def _path(self, tenant: str) -> Path:
        return self._folder / f"{hashlib.sha256(tenant.encode()).hexdigest()[:32]}.jsonl"
