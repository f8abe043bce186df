"""Table of kills under load."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.crash.checks import KINDS
from benchmarks.crash.victims import PROCESSES, REPLACED, VICTIMS
from benchmarks.markdown import table_of

_RESTARTED = ", server started again"


def crash(record: Mapping[str, Any]) -> str:
    lines = []
    for victim in VICTIMS:
        rows = [row for row in record["rows"] if row.get("victim") == victim]
        if rows:
            seconds = statistics.median(row["answers_again_seconds"] for row in rows)
            counts = [sum(row["violations"].get(kind, 0) for row in rows) for kind in KINDS]
            restarted = _RESTARTED if victim in PROCESSES and victim not in REPLACED else ""
            lines.append(
                [f"{victim}{restarted}", str(len(rows)), *map(str, counts), f"{seconds:.1f}"]
            )
    for end in (row for row in record["rows"] if "victim" not in row):
        counts = [end["violations"].get(kind, 0) for kind in KINDS]
        lines.append([f"all facts, at the end ({end['server']})", "", *map(str, counts), ""])
    runs = [row for row in record["rows"] if "victim" in row]
    written, deleted = (sum(row["facts"][fate] for row in runs) for fate in ("kept", "deleted"))
    erased = sum(row["erasures"] for row in runs)
    config = record["config"]
    note = (
        f"{written:,} writes and {deleted:,} deletions were acknowledged and checked, and {erased} erasures of "
        f"people; {config['clients']} clients, one kill a run, at most {config['killed_after_seconds_at_most']:g} s after "
        "the first acknowledged write. The database (PostgreSQL) and LMCache are started again while the server runs "
        f"on, after {config['service_away_seconds_at_most']:g} s at most and their own start."
    )
    return f"{table_of(['SIGKILL of', 'runs', *KINDS, 'answers again, s'], lines)}\n\n{note}"
