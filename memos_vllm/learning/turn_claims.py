"""Claims of a turn: what the person says of themselves is read and consolidated.

    items of the turn ─► rules ─► lasting statements, changes ─► steps (`pipeline.learn`) ─► consolidation

Turns of chats and of imported conversations take this one path.  Only the person's own words are read:
what the assistant says is no evidence about the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos_vllm import steps
from memos_vllm.cube.model import Item
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.beliefs import BeliefReader
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.reader.by_rules import read_claims

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class TurnClaims:
    def __init__(self, system: MemorySystem) -> None:
        self._is_on = system.config.remember.claims
        self._consolidator = Consolidator(system)
        self._beliefs = BeliefReader(system)
        self._steps = steps.load(system.config.pipeline.learn, system)

    def take(self, principal: Principal, items: Sequence[Item], origin: str = "chat") -> None:
        """Take up what the person says of themselves; a second time it changes nothing.

        Args:
            items: of one turn, verbatim.
            origin: in the provenance of the cubes' new versions.
        """
        person = principal.person
        if not self._is_on or not person:
            return
        claims = read_claims(items, person)
        beliefs = self._beliefs.read(principal, items, claims)
        claims += beliefs.claims
        if self._steps:
            learn = steps.Learn(principal, items, claims)
            claims = list(steps.run(self._steps, learn).claims)
        if claims or beliefs.retired:
            self._consolidator.take(principal, claims, origin, beliefs.retired)
