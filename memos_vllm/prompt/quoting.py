"""Quote untrusted text line by line, so that it cannot end or imitate the memory block."""

from __future__ import annotations

import re
from collections.abc import Callable

_DELIMITER = re.compile(r"<(\s*/?\s*memory)", re.IGNORECASE)

Escape = Callable[[str], str]
"""Breaks up a tokenizer's control strings (see `prompt.layout.control_string_breaker`)."""


def quoted(text: str, escape: Escape) -> str:
    """Each line behind "> ", without blank lines; `<memory>` inside is broken up."""
    safe = _DELIMITER.sub(r"< \1", escape(text))
    return "\n".join(f"> {line}" for line in safe.splitlines() if line.strip())
