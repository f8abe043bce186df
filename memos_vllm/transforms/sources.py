"""Source cubes of a transform: their common owner and readers, and the check for leaks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import SHARED, PersonId
from memos_vllm.cube.model import Access, Item, Kind, MemCube, State
from memos_vllm.errors import NotFound, Unprocessable
from memos_vllm.governance.permit import check_create
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.reader.chunking import passages

if TYPE_CHECKING:
    from memos_vllm.vault.vault import MemVault
    from memos_vllm.vault.views import VaultViews

_CHARACTERS_PER_TOKEN = 4
_LEAK_WORDS = 8


@dataclasses.dataclass(frozen=True)
class Sources:
    cubes: tuple[MemCube, ...]
    person: PersonId
    """Owner of the product: the narrowest of the sources' owners."""
    access: Access

    @property
    def ids(self) -> list[str]:
        return [cube.meta.id for cube in self.cubes]

    def items(self) -> list[Item]:
        return [item for cube in self.cubes for item in cube.items]

    def leaks(self, views: VaultViews, said: Iterable[str]) -> list[str]:
        """Runs of words in answers, from memory that not all readers of the product may read."""
        readers = self.access.readers
        hidden = views.hidden_texts(self.cubes[0].meta.tenant, self.person, readers)
        return leaks(said, hidden, (item.text for item in self.items()))

    def passages(self, tokens: int) -> list[Item]:
        """Their items, cut into pieces of about so many tokens."""
        return [
            item.model_copy(update={"text": piece, "id": None})
            for item in self.items()
            for piece in passages(item.text, tokens, _count)
        ]


def read_sources(vault: MemVault, principal: Principal, refs: Sequence[str]) -> Sources:
    """Cubes of text that one job may read together; an adapter stands for its own sources.

    Raises:
        NotFound: a cube does not exist.
        Forbidden: the principal may not write memory of the owner.
        Unprocessable: they belong to different people, or one holds no text.
    """
    cubes = {
        cube.meta.id: cube
        for ref in refs
        for cube in _learnt_from(vault, principal, vault.get(principal, ref))
    }
    people = {PersonId(cube.meta.person or SHARED) for cube in cubes.values()}
    owners = people - {SHARED}
    if len(owners) > 1:
        raise Unprocessable(
            f"the cubes belong to {len(owners)} people: no reader may have what is made from all of them"
        )
    person = next(iter(owners), SHARED)
    access = Access()
    for cube in cubes.values():
        if cube.meta.state is State.EXPIRED:
            raise Unprocessable(
                f"{cube.meta.name or cube.meta.id} has expired: it is not used any more"
            )
        if cube.meta.kind is not Kind.EXPLICIT or not cube.items:
            what = "an adapter" if cube.meta.kind is Kind.PARAMETRIC else "empty"
            raise Unprocessable(f"{cube.meta.name or cube.meta.id} holds no text: it is {what}")
        readers = cube.meta.access.readers
        if cube.meta.person is None and readers is not None:
            both = readers if access.readers is None else access.readers
            access = Access(readers=[reader for reader in readers if reader in both])
    if person and access.readers is not None and person not in access.readers:
        raise Unprocessable(f"{person} may not read all of the sources")
    check_create(principal, person)
    return Sources(tuple(cubes.values()), person, Access() if person else access)


def _learnt_from(vault: MemVault, principal: Principal, cube: MemCube) -> list[MemCube]:
    """The cubes of text on which an adapter was trained; a cube of text itself."""
    parents = cube.meta.provenance.parents
    if cube.meta.kind is not Kind.PARAMETRIC or not parents:
        return [cube]
    return [vault.get(principal, parent) for parent in parents]


def existing(vault: MemVault, principal: Principal, refs: Sequence[str]) -> Iterator[MemCube]:
    """Those of the cubes that exist and that the principal may read."""
    for ref in refs:
        with contextlib.suppress(NotFound):
            yield vault.get(principal, ref)


def leaks(said: Iterable[str], hidden: Iterable[str], known: Iterable[str]) -> list[str]:
    """Runs of eight words in an adapter's answers from hidden texts, and in none of its sources.

    Args:
        said: answers of the adapter.
        hidden: texts that not all of its readers may read.
        known: texts of its sources.
    """
    runs = {run for text in said for run in _runs(text)}
    runs -= {run for text in known for run in _runs(text)} if runs else set()
    found: set[tuple[str, ...]] = set()
    if runs:
        for text in hidden:
            found |= runs.intersection(_runs(text))
    return sorted(" ".join(run) for run in found)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[i : i + _LEAK_WORDS]) for i in range(len(words) - _LEAK_WORDS + 1)}


def _count(text: str) -> int:
    return len(text) // _CHARACTERS_PER_TOKEN + 1
