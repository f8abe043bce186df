"""Runs with several models or data sets in one record, each with its rows and its description."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.record import Record, git_commit, machine

SHOWN = (
    *("score", "score_gain", "judged", "judged_gain", "prompt_tokens_mean"),
    "first_token_ms_median",
)


def record(run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Record:
    name = f"{run['dataset']}, {run['model']}"
    described = {
        "run": name,
        **run,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "machine": machine(),
        "load_average_1m_at_end": round(os.getloadavg()[0], 2),
    }
    made = Record("generation", options=run["options"], config={"runs": [described]})
    made.rows = [{"run": name, **row} for row in rows]
    for row in made.rows:
        if row["kind"] == "all":
            shown = {f"{name}: {row['way']}, {key}": row[key] for key in SHOWN if key in row}
            made.headline |= shown
    return made


def add_earlier(made: Record, path: Path) -> None:
    """Add the runs of an existing record in front; a new run replaces one of the same name."""
    if not path.exists():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    new = {run["run"] for run in made.config["runs"]}
    earlier_runs = [run for run in earlier["config"]["runs"] if run["run"] not in new]
    names = {run["run"] for run in earlier_runs}
    made.config["runs"] = earlier_runs + made.config["runs"]
    made.rows = [row for row in earlier["rows"] if row["run"] in names] + made.rows
    shown = {k: v for k, v in earlier["headline"].items() if k.partition(":")[0] in names}
    made.headline = shown | made.headline
