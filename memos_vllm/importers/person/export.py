"""Export of a whole person."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import Kind
from memos_vllm.errors import BadRequest, Conflict, DamagedPayload
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.importers.skipped import Skipped
from memos_vllm.system import MemorySystem
from memos_vllm.vault.person_archive import PersonArchive, ReadCube

FORMAT = "memos-person"
VERSION = 1
_ROWS = 500
"""Items or versions in one line."""
_FILE_BYTES = 3 << 20
"""Of an adapter in one line."""


class PersonExport:
    def __init__(self, system: MemorySystem, principal: Principal) -> None:
        """An export of the principal's person.

        Raises:
            Forbidden: the key is no admin's.
            BadRequest: the principal names no person.
        """
        principal.require(Role.ADMIN)
        if not principal.person:
            raise BadRequest("an export of a person names the person", param="person")
        self._system, self._principal = system, principal
        self._archive = PersonArchive(system.database, system.payloads)
        self.skipped = Skipped()
        self.cubes = 0

    def lines(
        self, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[bytes]:
        """Lines of the archive; memory holds one cube at a time. The export is audited before the first."""
        ids = self._archive.cubes(self._principal)
        person = self._principal.person
        detail = {"person": person, "cubes": len(ids)}
        self._system.audit.note(self._principal, "person.export", "person", detail)
        digest = hashlib.sha256()
        for line in self._content(ids, progress):
            digest.update(line)
            yield line
        end = {
            "record": "end",
            "cubes": self.cubes,
            "turns": self._turns,
            "sha256": digest.hexdigest(),
            "left_out": self.skipped.tree(),
        }
        yield _line(end)

    def _content(self, ids: list[str], progress: Callable[[int, int], None]) -> Iterator[bytes]:
        exported = to_datetime(now_us()).isoformat()
        head = {"format": FORMAT, "version": VERSION, "person": self._principal.person}
        yield _line({**head, "exported": exported})
        for number, cube in enumerate(ids, start=1):
            try:
                read = self._archive.cube(self._principal, cube)
                lines = list(self._cube(read)) if read is not None else []
            except DamagedPayload as error:
                self.skipped.add("cube", f"its payload is damaged ({error.message})", cube)
                lines = []
            yield from lines
            self.cubes += bool(lines)
            progress(number, len(ids))
        turns = self._archive.turns(self._principal)
        self._turns = len(turns)
        for body in turns:
            yield _line({"record": "turn", "body": body})
        if stored := self._archive.responses(self._principal):
            reason = "state of /v1/responses and /v1/conversations; it belongs to the server's ids"
            self.skipped.add("stored reply", reason, count=stored)

    def _cube(self, read: ReadCube) -> Iterator[bytes]:
        cube = read.cube
        if read.forgotten:
            reason = "it holds what the person had forgotten, and is kept for undoing alone"
            self.skipped.add("version", reason, cube.id, read.forgotten)
        if read.damaged:
            self.skipped.add("version", "its payload is damaged", cube.id, read.damaged)
        tree = cube.wire()
        items, versions = tree.pop("items"), tree.pop("versions")
        yield _line({"record": "cube", **tree})
        for name, rows in (("items", items), ("versions", versions)):
            for start in range(0, len(rows), _ROWS):
                yield _line({"record": name, name: rows[start : start + _ROWS]})
        if cube.kind is Kind.PARAMETRIC:
            for digest in dict.fromkeys(str(each.file) for each in cube.versions):
                yield from _file(digest, self._archive.file(read, digest))


def export_person(
    system: MemorySystem,
    principal: Principal,
    path: Path,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PersonExport:
    """Write a person's archive; the file appears whole or not at all, readable by its owner alone.

    Raises:
        Conflict: the file exists and `replace` is not set.
        BadRequest: the file cannot be written.
        Forbidden
    """
    if path.exists() and not replace:
        raise Conflict(f"{path} exists already; --force replaces it")
    export = PersonExport(system, principal)
    whole = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for line in export.lines(progress):
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # never hides the error of the export itself
            whole.unlink(missing_ok=True)
    return export


def _file(digest: str, data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _FILE_BYTES):
        part = base64.b64encode(data[start : start + _FILE_BYTES]).decode()
        yield _line({"record": "file", "sha256": digest, "data": part})


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
