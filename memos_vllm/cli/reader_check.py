"""Check of `memos doctor`: which reader is in force, by the record of the last exam."""

from __future__ import annotations

from memos_vllm.cli.checks import Check
from memos_vllm.config.tree import Config
from memos_vllm.learning.examine import ReaderStatus, last_status

_REMEDY = (
    "serve a larger model, name one by `reader.url`, or lower the bars (`reader.exam_facts`, …)"
)


def check_reader(config: Config) -> Check:
    reader = config.reader
    if reader.mode == "fast":
        return Check("reader", "ok", "rules: `reader.mode` is fast")
    if reader.mode == "fine":
        return Check(
            "reader", "note", "rules and the model: `reader.mode` is fine, without an exam"
        )
    status = last_status(reader, config.exams_path)
    if status is None:
        return Check("reader", "note", "rules; the model sits its exam after the first start")
    if status.reads == "model":
        return Check("reader", "ok", f"rules and the model, {_shown(status)}")
    return Check("reader", "note", f"rules: {status.reason}; {_shown(status)}", _REMEDY)


def _shown(status: ReaderStatus) -> str:
    """Marks of each form, and of the judge."""
    shown = []
    for form, marks in status.marks.items():
        if form == "judge":
            shown.append(f"changes judged {marks['changes_right']}/{marks['changes']}")
            continue
        shown.append(
            f"{form}: facts {marks['facts_kept']}/{marks['facts']}, junk {marks['junk']}/{marks['items']}, "
            f"negations {marks['negations_right']}/{marks['negations']} after {marks['asked']} of {marks['of']}"
        )
    return "; ".join(shown)
