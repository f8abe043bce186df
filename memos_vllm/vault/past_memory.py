"""Memory of a past moment, as `PastVault` reads it."""

from __future__ import annotations

import dataclasses

from memos_vllm.cube.model import Item, Placement, State
from memos_vllm.governance.principal import persona_of
from memos_vllm.vault.items import IndexedItem, indexed
from memos_vllm.vault.tables import CubeRow, VersionRow


@dataclasses.dataclass(frozen=True, slots=True)
class PastCube:
    """A cube as it was."""

    row: CubeRow
    """The cube now; detached."""
    version: VersionRow
    items: tuple[Item, ...]
    state: State
    placement: Placement
    priority: int
    tags: tuple[str, ...]
    name: str | None
    is_head: bool
    """Its version is still the current one, whole."""

    @property
    def persona(self) -> str | None:
        return persona_of(self.tags)

    def indexed(self) -> list[IndexedItem]:
        """Its items in the form that is indexed."""
        return [indexed(self.row, item, self.persona) for item in self.items]


@dataclasses.dataclass(frozen=True, slots=True)
class PastMemory:
    """What a principal's prompts could have held."""

    at_us: int
    cubes: tuple[PastCube, ...]
    """Of text, oldest first."""
    is_current: bool
    """Nothing that may enter a prompt has changed since."""
    adapters: frozenset[str]
    """Parametric cubes in use then whose version is still the current one."""
    is_cut: bool = False
    """More items than the limit: those of the oldest cubes are left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class NowAndThen:
    """A cube of a person."""

    row: CubeRow
    """Now; detached."""
    past: PastCube | None
    """Then; None: it was made later, or its version of then is damaged."""
    is_later: bool
    """It was made later."""
