"""Times that clients give: readable in every zone, so that one stored time never fails a later request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator

EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, tzinfo=UTC)
_CLAIM_TIMES = ("begins", "ends", "last_seen", "followed_at")


def _checked(moment: datetime) -> datetime:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not EARLIEST <= aware <= LATEST:
        raise ValueError(f"a time lies between the years {EARLIEST.year} and {LATEST.year}")
    return aware


Moment = Annotated[datetime, AfterValidator(_checked)]
"""A time with a zone (none means UTC) that converts to every other zone."""


def within_range(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored item, or a stored claim, with times outside the range moved to its nearest end.

    Times were stored unchecked once: the end of a claim in the year 1 still means that it has ended.
    """
    entry = dict(stored)
    if isinstance(claim := entry.get("claim"), Mapping):
        entry["claim"] = within_range(claim)
    for name in (*_CLAIM_TIMES, "time"):
        if isinstance(text := entry.get(name), str):
            entry[name] = _nearest(datetime.fromisoformat(text)).isoformat()
    return entry


def _nearest(moment: datetime) -> datetime:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(aware, EARLIEST), LATEST)
