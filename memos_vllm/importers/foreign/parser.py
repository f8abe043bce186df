"""Files of other systems, read in a process of its own: one that is hostile costs itself."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from memos_vllm.config.imports import ImportsConfig
from memos_vllm.importers.foreign.records import Chat, Document, Fact, Record
from memos_vllm.importers.skipped import Group, Skipped
from memos_vllm.parsing.pool import ParsingPool, Words

_MODULE = "memos_vllm.importers.foreign.child"
_WORDS = Words(
    work="file",
    works="files",
    process="reader of imports",
    section="imports",
    advice="import it in parts",
    param="file",
)
_RECORD: TypeAdapter[Chat | Fact | Document] = TypeAdapter(Record)


@dataclasses.dataclass
class Parsed:
    kind: str
    """`chatgpt`, `claude`, `mem0`, `memos`; or a format with an importer of its own."""
    lines: bytes
    skipped: Skipped

    def records(self) -> Iterator[Chat | Fact | Document]:
        """Records, checked once more; one that is none is named in `skipped`."""
        for number, line in enumerate(io.BytesIO(self.lines), start=1):
            try:
                yield _RECORD.validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(str(part) for part in problem["loc"])
                self.skipped.add("record", f"`{where}`: {problem['msg']}", f"record {number}")


class ForeignFiles(ParsingPool):
    """Reader of files of other systems. To be closed."""

    def __init__(self, config: ImportsConfig) -> None:
        super().__init__(_MODULE, config, _WORDS)
        self._config = config

    def read(self, path: Path, kind: str = "auto", tenant: str = "") -> Parsed:
        """What a file holds, without its images, tools and branches.

        Args:
            kind: of `reading.FOREIGN`, or `auto`.
        Raises:
            BadRequest, TooLarge, Unprocessable: nothing was imported; the message says what to do.
            Unavailable: no process can be started.
        """
        limits = self._config.model_dump(include={"members", "ratio", "text_bytes", "output_bytes"})
        order = {"path": str(path.absolute()), "format": kind, **limits}
        answer, lines = self.work(order, lambda: b"", tenant=tenant)
        groups = [Group(**each) for each in answer["left_out"]]
        return Parsed(answer["kind"], lines, Skipped(groups))
