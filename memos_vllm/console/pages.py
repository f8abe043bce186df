"""Templates of the console and their filters. Every value is escaped; text of memory is shown inert."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from memos_vllm.cube.ids import to_datetime

SHORT, LONG = 300, 20_000
"""Characters of a text in a list, and of one part of it on its own page."""
STATIC = Path(__file__).parent / "static"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def shown(text: Any) -> str:
    """A text with control characters made visible, and without overrides of the direction of writing."""
    plain = _CONTROLS.sub(_picture, str(text))
    return _OVERRIDES.sub("\ufffd", plain)


def short(text: Any, most: int = SHORT) -> str:
    """The beginning of a text, as `shown`."""
    whole = str(text)
    return shown(whole[:most]) + ("…" if len(whole) > most else "")


def bdi(text: Any, most: int = SHORT) -> Markup:
    """The beginning of a text, isolated from the direction of writing around it."""
    return Markup("<bdi>{}</bdi>").format(short(text, most))


def moment(at: datetime | int | str | None) -> Markup:
    """A time in UTC; microseconds since the epoch are accepted, and nothing is shown for None."""
    if at is None:
        return Markup("")
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    found = (to_datetime(at) if isinstance(at, int) else at).astimezone(UTC)
    written = found.strftime("%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{}</time>').format(found.isoformat(), written)


def size(count: int) -> str:
    """Bytes in a unit that a person reads."""
    number = float(count)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def count(number: float) -> str:
    return f"{number:,.0f}"


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def environment() -> Environment:
    """Templates of this package, with autoescape for every name."""
    made = Environment(
        loader=PackageLoader("memos_vllm.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        shown=shown,
        short=short,
        bdi=bdi,
        moment=moment,
        size=size,
        count=count,
        pretty=pretty,
    )
    return made


def static_files() -> dict[str, tuple[bytes, str]]:
    """Files of `static/` with their media types, by name."""
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    return {
        path.name: (path.read_bytes(), f"{kinds[path.suffix]}; charset=utf-8")
        for path in STATIC.iterdir()
        if path.suffix in kinds
    }


def version_of(files: dict[str, tuple[bytes, str]]) -> str:
    """Changes with the files, so that a browser fetches new ones."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(files[name][0])
    return digest.hexdigest()[:12]
