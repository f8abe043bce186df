"""Reader of a person's archive: checked to its end before anything of it is imported."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memos_vllm import strict_json
from memos_vllm.cube.archive import ArchivedCube
from memos_vllm.cube.ids import sha256
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import check_person
from memos_vllm.importers.person.export import FORMAT, VERSION
from memos_vllm.importers.skipped import Skipped

_OF_A_CUBE = ("items", "versions", "file")


@dataclasses.dataclass
class Entry:
    """A cube of an archive, with the files of its adapters by their digests."""

    cube: ArchivedCube
    files: dict[str, bytes]


@dataclasses.dataclass
class _Raw:
    """Lines of a cube as they come."""

    line: int
    header: dict[str, Any]
    items: list[Any] = dataclasses.field(default_factory=list)
    versions: list[Any] = dataclasses.field(default_factory=list)
    files: dict[str, bytearray] = dataclasses.field(default_factory=dict)


class Archive:
    def __init__(self, path: Path, most_file_bytes: int) -> None:
        """Open and check an archive.

        Args:
            most_file_bytes: of one adapter (`limits.adapter_bytes`).
        Raises:
            BadRequest: another file, a newer version, truncated, or changed since it was written.
        """
        self._path, self._most = path, most_file_bytes
        lines = self._lines()
        self.person = self._header(next(lines, (1, {}))[1])
        end: dict[str, Any] = {}
        cubes = turns = 0
        for number, record in lines:
            if end:
                raise BadRequest(f"{path}:{number}: a line behind the end of the archive")
            cubes += record.get("record") == "cube"
            turns += record.get("record") == "turn"
            end = record if record.get("record") == "end" else {}
        if not end:
            raise BadRequest(f"{path}: the end is missing, the file is truncated; export again")
        if (cubes, turns, self._digest) != (end.get("cubes"), end.get("turns"), end.get("sha256")):
            raise BadRequest(
                f"{path}: the file is not as it was written (its checksum differs); export again"
            )
        self.total = cubes

    def cubes(self, skipped: Skipped) -> Iterator[Entry | None]:
        """Cubes in their order; None: it is damaged, and named in `skipped`."""
        raw: _Raw | None = None
        for number, record in self._lines():
            kind = record.get("record")
            if kind in _OF_A_CUBE and raw is not None:
                self._take(raw, kind, record)
                continue
            if raw is not None:
                yield self._entry(raw, skipped)
            raw = None
            if kind == "cube":
                header = {name: value for name, value in record.items() if name != "record"}
                raw = _Raw(number, header)

    def turns(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, body) of turns that are not yet memory."""
        for number, record in self._lines():
            if record.get("record") == "turn":
                body = record.get("body")
                yield number, body if isinstance(body, dict) else {}

    # -- inside -----------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, record) of each line. `_digest` is that of the lines before the end."""
        digest = hashlib.sha256()
        try:
            with self._path.open("rb") as file:
                number = 0
                while line := file.readline(strict_json.MOST_BYTES + 1):
                    number += 1
                    record = strict_json.parse(line, what=f"{self._path}:{number}")
                    if not isinstance(record, dict):
                        raise BadRequest(f"{self._path}:{number}: no record of an archive")
                    if record.get("record") != "end":
                        digest.update(line)
                    self._digest = digest.hexdigest()
                    yield number, record
        except OSError as error:
            raise BadRequest(f"cannot read {self._path}: {error.strerror}") from error

    def _header(self, header: dict[str, Any]) -> str:
        if header.get("format") != FORMAT or not isinstance(header.get("person"), str):
            raise BadRequest(
                f"{self._path}:1: no archive of a person; `memos export --person ID -o FILE` writes one"
            )
        if header.get("version") != VERSION:
            raise BadRequest(
                f"{self._path}:1: archive version {header.get('version')!r}; this memos_vllm reads "
                f"{VERSION}: upgrade memos-vllm, or export with the version that you import with"
            )
        return check_person(header["person"])

    def _take(self, raw: _Raw, kind: str, record: dict[str, Any]) -> None:
        if kind == "file":
            held = raw.files.setdefault(str(record.get("sha256")), bytearray())
            if len(held) <= self._most:  # a longer one is refused as a whole
                held += _bytes(record.get("data"))
            return
        rows = record.get(kind)
        (raw.items if kind == "items" else raw.versions).extend(
            rows if isinstance(rows, list) else [rows]
        )

    def _entry(self, raw: _Raw, skipped: Skipped) -> Entry | None:
        name = str(raw.header.get("name") or raw.header.get("id"))
        tree = {**raw.header, "items": raw.items, "versions": raw.versions}
        try:
            cube = ArchivedCube.model_validate(tree)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            skipped.add("cube", f"line {raw.line}: `{where}`: {problem['msg']}", name)
            return None
        files = {digest: bytes(data) for digest, data in raw.files.items()}
        for version in cube.versions:
            if version.file is None:
                continue
            data = files.get(version.file, b"")
            if len(data) > self._most:
                reason = f"it has more than {self._most} bytes (limits.adapter_bytes)"
                skipped.add("adapter", reason, name)
                return None
            if sha256(data) != version.file:
                skipped.add("adapter", "its file is missing or damaged", name)
                return None
        return Entry(cube, files)


def _bytes(data: Any) -> bytes:
    """Empty for what is no base64: the checksum of the file then differs."""
    try:
        return base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except binascii.Error:
        return b""
