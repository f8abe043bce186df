"""Table of timing attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of


def attacks(record: Mapping[str, Any]) -> str:
    lines = [
        [
            row["attack"],
            str(row["probes"]),
            _shown(row["attacker"]),
            str(row["attacker_hits"]),
            f"{row['right_ms']:,.0f} / {row['wrong_ms']:,.0f}",
            _shown(row["control"]),
            f"{row['first_ms']:,.0f} / {row['repeat_ms']:,.0f}",
        ]
        for row in record["rows"]
    ]
    head = [
        "attack, and who makes it",
        "rounds",
        "AUC of the guesses",
        "hits",
        "right / wrong guess, ms",
        "AUC of the victim's repeat",
        "first / repeat, ms",
    ]
    note = (
        f"AUC with its {record['config']['level']:.0%} bootstrap interval: 0.5 is chance. A hit is a guess whose reply "
        "reports cached tokens or loaded KV. The victim's repeat shows what a leak would look like."
    )
    return f"{table_of(head, lines)}\n\n{note}"


def _shown(found: Mapping[str, float]) -> str:
    return f"{found['auc']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
