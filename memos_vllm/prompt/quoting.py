"""Text of others as data: quoted line by line, in a block that it cannot end or imitate."""

from __future__ import annotations

import re
from collections.abc import Callable

_DELIMITER = re.compile(r"<(\s*/?\s*memory)", re.IGNORECASE)

Escape = Callable[[str], str]
"""Breaks up a tokenizer's control strings (see `prompt.layout.control_string_breaker`)."""


def quoted(text: str, escape: Escape) -> str:
    """Each line behind "> ", blank ones left out; `<memory>` cannot be spelled inside."""
    safe = _DELIMITER.sub(r"< \1", escape(text))
    return "\n".join(f"> {line}" for line in safe.splitlines() if line.strip())
