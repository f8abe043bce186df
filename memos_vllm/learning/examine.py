"""Who reads turns: the model where it passes its exam, else rules (`reader.mode: auto`).

The exam runs in a thread of its own after the start, at the lowest priority.  Its record is a file below
`home`, named by the model's fingerprint and the version of the exam, so that a restart does not sit it
again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

from memos_vllm.config.reader import ReaderConfig
from memos_vllm.errors import Unavailable
from memos_vllm.plaintext.reader import exam
from memos_vllm.plaintext.reader.exam import Bars, Form, Marks
from memos_vllm.prompt.quoting import Escape
from memos_vllm.writer.base import Writer

log = logging.getLogger(__name__)
FORMS: tuple[Form, ...] = ("continued", "alone")
_PAUSES_SECONDS = (30.0, 120.0, 600.0)
"""Pauses after a model that did not answer; then rules read until the next start."""


@dataclasses.dataclass(frozen=True)
class ReaderStatus:
    """Which reader is in force, and why."""

    mode: Literal["auto", "fast", "fine"]
    """As configured."""
    reads: Literal["rules", "model"]
    """The model reads in addition to rules."""
    reason: str
    forms: tuple[Form, ...] = ()
    """`continued`: behind the served conversation; `alone`: with a prompt of its own."""
    judges: bool = False
    """Whether the model judges changes."""
    model: str | None = None
    version: str | None = None
    marks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Marks by form, and of the judge."""


class Examiner:
    """Gives the model its exam and answers which reader is in force."""

    def __init__(
        self,
        config: ReaderConfig,
        folder: Path,
        writer: Writer,
        escape: Escape,
        model: str,
        continues: bool = False,
    ) -> None:
        """
        Args:
            folder: of the records.
            model: fingerprint of the model's weights, or address and name of another one.
            continues: whether the writer can continue served conversations.
        """
        self._config, self._folder, self.writer, self._escape = config, folder, writer, escape
        self._model = model
        self._forms: tuple[Form, ...] = FORMS if continues else ("alone",)
        self._stop = threading.Event()
        self._status = self._unexamined()

    @property
    def status(self) -> ReaderStatus:
        return self._status

    def start(self) -> None:
        """Read the record, or begin the exam in the background."""
        if self._config.mode != "auto":
            return
        if (record := _read(self._path())) is not None:
            self._status = status_of(record, self._config)
            log.info("turns are read by %s: %s", self._status.reads, self._status.reason)
            return
        threading.Thread(target=self._sit, name="memos-exam", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _unexamined(self) -> ReaderStatus:
        mode = self._config.mode
        if mode == "fine":
            return ReaderStatus(
                mode, "model", "`reader.mode` is fine", self._forms, judges=True, model=self._model
            )
        reason = "the exam has not ended" if mode == "auto" else "`reader.mode` is fast"
        return ReaderStatus(mode, "rules", reason, model=self._model)

    def _path(self) -> Path:
        name = hashlib.sha256(f"{self._model}\0{','.join(self._forms)}".encode()).hexdigest()[:32]
        return self._folder / f"{name}-{exam.version()}.json"

    def _sit(self) -> None:
        for pause in (*_PAUSES_SECONDS, None):
            try:
                record = self._examined()
            except Unavailable as error:
                log.warning("the exam of the reading model is interrupted: %s", error)
                self._status = dataclasses.replace(
                    self._status, reason=f"the model does not answer its exam: {error}"
                )
                if pause is None or self._stop.wait(pause):
                    return
                continue
            _write(self._path(), record)
            self._status = status_of(record, self._config)
            log.info("turns are read by %s: %s", self._status.reads, self._status.reason)
            return

    def _examined(self) -> dict[str, Any]:
        """The record of an exam. Raises Unavailable."""
        started, bars = time.monotonic(), _bars(self._config)
        forms: dict[str, Any] = {}
        passes = False
        for form in self._forms:
            marks, problem = exam.sit(self.writer, self._escape, form, bars)
            forms[form] = dataclasses.asdict(marks)
            passes = passes or problem is None
        record: dict[str, Any] = {
            "model": self._model,
            "version": exam.version(),
            "sat": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "forms": forms,
        }
        if passes:
            right, asked = exam.sit_judge(self.writer, self._escape)
            record["changes"] = {"changes_right": right, "changes": asked}
        record["seconds"] = round(time.monotonic() - started, 1)
        return record


def status_of(record: dict[str, Any], config: ReaderConfig) -> ReaderStatus:
    """The status by a record and the bars of the configuration."""
    bars, totals = _bars(config), exam.totals()
    sat = {form: Marks(**marks) for form, marks in record["forms"].items()}
    problems = {form: each.failing(bars, *totals) for form, each in sat.items()}
    passed: tuple[Form, ...] = tuple(form for form in FORMS if problems.get(form, "") is None)
    marks, judges = {form: dataclasses.asdict(each) for form, each in sat.items()}, False
    if (changes := record.get("changes")) is not None:
        marks["judge"] = changes
        judges = changes["changes_right"] >= bars.changes * changes["changes"]
    if passed:
        reason = f"the model passed its exam on {record['sat']}"
    else:
        failed = "; ".join(f"{form}: {problem}" for form, problem in problems.items())
        reason = f"the model failed its exam on {record['sat']} ({failed})"
    return ReaderStatus(
        "auto",
        "model" if passed else "rules",
        reason,
        passed,
        judges=bool(passed) and judges,
        model=record["model"],
        version=record["version"],
        marks=marks,
    )


def _bars(config: ReaderConfig) -> Bars:
    return Bars(config.exam_facts, config.exam_junk, config.exam_negations, config.exam_changes)


def last_status(config: ReaderConfig, folder: Path) -> ReaderStatus | None:
    """The status by the newest record of any model; None: no exam of this version has ended."""
    files = sorted(folder.glob(f"*-{exam.version()}.json"), key=lambda path: path.stat().st_mtime)
    records = (_read(file) for file in reversed(files))
    return next((status_of(record, config) for record in records if record is not None), None)


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None: there is none, or it is damaged, so that the exam is sat again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for marks in record["forms"].values():
            Marks(**marks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(record)


def _write(path: Path, record: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.warning("the record of the exam is not stored, the next start sits it again: %s", error)
