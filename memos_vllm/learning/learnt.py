"""Adapters that learnt what a person has forgotten: weights cannot be cut, only trained again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.model import CubePatch, Header, Kind, Provenance, State
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import EVERY_PERSONA, Principal
from memos_vllm.vault.forgotten import Forgotten, ForgottenStore
from memos_vllm.vault.lineage import Lineage
from memos_vllm.vault.listing import every
from memos_vllm.vault.views import CubeFilter

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_AT_REST = (State.ARCHIVED, State.EXPIRED)


class Learnt:
    def __init__(self, system: MemorySystem, origin: str) -> None:
        """Adapters of one memory system.

        Args:
            origin: in the provenance of new versions.
        """
        self._system, self._origin = system, origin
        self._lineage = Lineage(system.database)

    def from_items(
        self, principal: Principal, lost: Mapping[str, Collection[str | None]]
    ) -> list[Header]:
        """The person's adapters that were trained on items, or made from such adapters.

        Args:
            lost: ids of the items, by cube.
        """
        edges = self._lineage.below(principal.tenant, lost)
        found = {
            edge.made
            for edge in edges
            if edge.source in lost
            and self._had(principal, edge.source, edge.version, lost[edge.source])
        }
        while further := {edge.made for edge in edges if edge.source in found} - found:
            found |= further
        if not found:
            return []
        own = CubeFilter(person=principal.person)
        everyone = principal.in_persona(EVERY_PERSONA)
        return [
            header
            for header in every(self._system.views, everyone, own)
            if header.id in found and header.kind is Kind.PARAMETRIC
        ]

    def archive(self, principal: Principal, undo: str, adapter: Header) -> None:
        """Take an adapter out of use until it is undone, or ended."""
        forgotten = Forgotten(undo, CubeId(adapter.id), adapter.version, adapter.state)
        recording = ForgottenStore.recording(
            principal, forgotten, 1, self._system.config.remember.undo_seconds
        )
        if adapter.state in _AT_REST:  # it waits for its end as it is
            self._system.forgotten.settle(recording)
            return
        self._system.update(
            principal.in_persona(EVERY_PERSONA),
            adapter.id,
            CubePatch(state=State.ARCHIVED, provenance=Provenance(origin=self._origin, note=undo)),
            in_transaction=recording,
        )

    def restore(self, principal: Principal, forgotten: Forgotten) -> None:
        """Bring an archived adapter back into use; one that was in no use stays archived."""
        hook, everyone = (
            ForgottenStore.undoing(principal, forgotten),
            principal.in_persona(EVERY_PERSONA),
        )
        if forgotten.state not in (State.ACTIVATED, State.MERGED):
            self._system.forgotten.settle(hook)
            return
        patch = CubePatch(state=State.ACTIVATED)
        self._system.update(everyone, forgotten.cube, patch, in_transaction=hook)
        if forgotten.state is State.MERGED:
            self._system.update(everyone, forgotten.cube, CubePatch(state=forgotten.state))

    def end(self, owner: Principal, forgotten: Forgotten, adapter: Header) -> None:
        """Delete an archived adapter when nothing can be undone any more; one that was in use is trained
        again."""
        if adapter.state not in _AT_REST:
            return
        was_used = forgotten.state not in _AT_REST
        self._system.delete(owner, adapter.id, if_match=adapter.version, remake=was_used)

    def _had(
        self, principal: Principal, cube: str, version: str, items: Collection[str | None]
    ) -> bool:
        """Whether a version of a cube had one of the items; True where it is not stored any more."""
        try:
            then = self._system.vault.get(principal.in_persona(EVERY_PERSONA), cube, version)
        except (NotFound, DamagedPayload):
            return True
        return any(item.id in items for item in then.items)
