"""Position of an import, on disk, from which an interrupted import continues.

`<home>/imports/<SHA-256 of the import's identity>.json`: never beside the user's own files.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from memos_vllm.cube.ids import canonical_json, sha256
from memos_vllm.errors import ConfigError

_VERSION = 1


@dataclasses.dataclass(slots=True)
class ImportPosition:
    file: Path
    """File with this position."""
    source: str
    """Path of the imported file, for operators."""
    content: str
    """SHA-256 of the imported file; a changed file is another import."""
    done: int = 0
    finished: bool = False
    created: int = 0
    extended: int = 0
    skipped: int = 0

    @classmethod
    def load(cls, folder: Path, source: Path, content: str, identity: Mapping[str, Any]) -> Self:
        """Position of an earlier run with this content, or zero.

        Args:
            identity: what else identifies the import: format, tenant, options, vault.

        Raises:
            ConfigError: the stored position is damaged.
        """
        key = sha256(canonical_json({**identity, "path": str(source.absolute())}))
        fresh = cls(folder / f"{key}.json", str(source.absolute()), content)
        try:
            stored = json.loads(fresh.file.read_text(encoding="utf-8"))
            if stored["version"] != _VERSION or stored["content"] != content:
                return fresh
            fresh.done, fresh.finished = int(stored["done"]), bool(stored["finished"])
            fresh.created, fresh.extended = int(stored["created"]), int(stored["extended"])
            fresh.skipped = int(stored["skipped"])
        except FileNotFoundError:
            return fresh
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the position of an earlier import, {fresh.file}, cannot be read ({error}): delete "
                "it to import from the beginning; nothing is imported twice"
            ) from error
        return fresh

    def save(self) -> None:
        """Write the position durably. Raises ConfigError."""
        state = dataclasses.asdict(self) | {"version": _VERSION}
        del state["file"]
        temporary = self.file.with_name(f".{self.file.name}.{uuid4().hex}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.file)
        except OSError as error:
            raise ConfigError(
                f"cannot write the import's position to {self.file}: {error.strerror}"
            ) from error

    def restart(self) -> None:
        self.done = self.created = self.extended = self.skipped = 0
        self.finished = False
