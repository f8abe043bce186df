"""Table of routing: the share of turns that reach the warm replica, and TTFT at another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

_SENDS = {
    "reply": "the `X-Session-ID` of the last reply, none in the first turn",
    "kept": "the same, kept from an earlier chat",
    "person": "the person's id as `X-Session-ID`",
    "nothing": "none",
}
_PLACES = {"warm": "past the router, the warm replica", "other": "past the router, the other one"}


def routing(record: Mapping[str, Any]) -> str:
    lines = []
    for row in record["rows"]:
        shown = _SENDS[row["client_sends"]] if "client_sends" in row else _PLACES[row["replica"]]
        share = f"{100 * row['warm_share']:.0f} %" if "warm_share" in row else ""
        cached = f"{100 * row['cached_share']:.0f} %"
        used = str(row.get("replicas", ""))
        lines.append(
            [shown, str(row["turns"]), used, share, cached, f"{1000 * row['ttft_p50']:,.0f}"]
        )
    head = [
        "session header",
        "turns",
        "replicas",
        "at the warm replica",
        "tokens cached",
        "TTFT P50, ms",
    ]
    config = record["config"]
    note = (
        f"{config['people']} people of several tenants, {config['turns']} turns of a chat each, "
        f"{config['clients']} chats at a time; the last two rows one request at a time. TTFT at the other "
        f"replica over the warm one: **{record['headline']['ttft_other_over_warm']:.2f}**."
    )
    return f"{table_of(head, lines)}\n\n{note}"
