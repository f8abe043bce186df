"""Time zones of people, by their IANA names ("Europe/Berlin")."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

LONGEST_NAME = 64


@functools.lru_cache(maxsize=1024)
def zone(name: str) -> tzinfo:
    """The zone of a name. Raises ValueError: there is none."""
    if name == "UTC":
        return UTC  # also where the machine has no zone data
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no IANA time zone (`Europe/Berlin`)") from error


def checked(name: str | None) -> str | None:
    """The name itself. Raises ValueError: it is no zone."""
    if name is not None:
        zone(name)
    return name


def local(us: int, name: str | None) -> datetime:
    """Local time, with its offset.

    Args:
        us: microseconds since the epoch.
        name: of a zone; None, or one that this machine does not know: UTC.
    """
    moment = datetime.fromtimestamp(us / 1_000_000, UTC)
    try:
        return moment.astimezone(zone(name)) if name else moment
    except ValueError:
        return moment
