"""Keep names and questions out of uvicorn's access log: paths of people and sessions, and queries, of the Memory API and the console."""

from __future__ import annotations

import logging
import re

_PRIVATE = re.compile(
    r"(/v1/memory/(?:people|sessions)/).*|((?:/v1)?/memory(?:/[^?]*)?)\?.*", re.DOTALL
)


class PrivatePaths(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _shown(each) if isinstance(each, str) else each for each in record.args
            )
        return True


def install() -> None:
    """Filter the access log of this process. Idempotent."""
    log = logging.getLogger("uvicorn.access")
    if not any(isinstance(each, PrivatePaths) for each in log.filters):
        log.addFilter(PrivatePaths())


def _shown(path: str) -> str:
    return _PRIVATE.sub(lambda found: f"{found[1] or found[2]}…", path)
