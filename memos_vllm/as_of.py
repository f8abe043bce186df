"""Past moments that clients name: `as_of` of a chat, a search, a list or a restore."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from memos_vllm.clock import now_us
from memos_vllm.errors import BadRequest

EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")
_HELP = "an ISO 8601 time with its zone (`2026-03-01T12:00:00+01:00`), or seconds ago"


def read_moment(value: Any) -> datetime:
    """A past moment.

    Args:
        value: an ISO 8601 time with a zone, or seconds ago (a number, or its digits).

    Raises:
        ValueError: neither; without a zone; in the future; before the year 2.
    """
    now = datetime.fromtimestamp(now_us() / 1_000_000, UTC)
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        moment = _ago(now, value)
    elif isinstance(value, str):
        moment = _parsed(value)
    elif isinstance(value, datetime):
        moment = value
    else:
        raise ValueError(f"it is {_HELP}")
    if moment.tzinfo is None:
        raise ValueError(f"the time has no zone: it is {_HELP}")
    if moment > now:
        raise ValueError(f"it lies in the future: here it is {now.isoformat()}")
    if moment < EARLIEST:
        raise ValueError(f"it lies before the year {EARLIEST.year}")
    return moment


AsOf = Annotated[
    datetime,
    BeforeValidator(read_moment),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}
    ),
]
"""A past moment, in the forms of `read_moment`."""


def as_of_parameter(text: str | None, param: str = "as_of") -> datetime | None:
    """The moment of a query parameter or an option. Raises BadRequest."""
    if text is None:
        return None
    try:
        return read_moment(text)
    except ValueError as error:
        raise BadRequest(f"`{param}`: {error}", param=param) from error


def _ago(now: datetime, seconds: float) -> datetime:
    if not 0 <= seconds <= (now - EARLIEST).total_seconds():
        raise ValueError(f"seconds ago lie between 0 and the year {EARLIEST.year}")
    return now - timedelta(seconds=seconds)


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is no time: it is {_HELP}") from error
