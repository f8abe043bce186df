"""What an import or export leaves out: counted and named, each with its reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

_NAMES = 20
"""Names of one group that are listed; the count is of all."""


@dataclasses.dataclass
class Group:
    """Things of one sort that are left out for one reason."""

    what: str
    reason: str
    count: int = 0
    names: list[str] = dataclasses.field(default_factory=list)
    """The first ones."""

    def line(self) -> str:
        """For a terminal."""
        shown = ", ".join(self.names[:3]) + (", …" if self.count > 3 else "")
        return f"left out: {self.count} × {self.what}: {self.reason}" + (
            f" ({shown})" if shown else ""
        )


class Skipped:
    """Groups in the order of their first thing."""

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._groups: dict[tuple[str, str], Group] = {}
        for group in groups:
            self._groups[group.what, group.reason] = group

    def add(self, what: str, reason: str, name: str = "", count: int = 1) -> None:
        group = self._groups.setdefault((what, reason), Group(what, reason))
        group.count += count
        if name and len(group.names) < _NAMES:
            group.names.append(name[:200])

    def count(self) -> int:
        """Number of things that are left out."""
        return sum(group.count for group in self._groups.values())

    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def tree(self) -> list[dict[str, Any]]:
        """JSON form."""
        return [dataclasses.asdict(group) for group in self._groups.values()]
