"""Notes of tools: what an agent stores or corrects for a person, as the MCP server offers it.

A note is the statement of a tool and not of the person, also where the person's own agent writes it: the
agent may repeat what a web page told it. So a note is an item of the speaker `tool` without a claim, in a cube
of its own series with the provenance `mcp`: search finds it, prompts show its speaker, and it is never a
preference, an instruction or a part of the profile, nor does it supersede what the person said.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import now_us, sha256, to_datetime
from memos_vllm.cube.model import (
    TOOL,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    MemCube,
    NewCube,
    NewMeta,
    Placement,
    Provenance,
    plain,
)
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unprocessable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.consolidate import Consolidator, is_consolidated
from memos_vllm.learning.feedback import Feedback
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.learning.series import newest_part
from memos_vllm.plaintext.claims.fold import Retired
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.english.instructions import is_instruction

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

ORIGIN = "mcp"
"""Origin in the provenance of what a tool writes."""
NOTES = "tool-notes"
"""Series of the cubes with notes, and their tag."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    cube: str
    version: str
    items: list[str]
    """Ids; several where the text was cut into passages."""
    is_new: bool
    """False: the newest cube of notes has the same note already."""


class ToolNotes:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    def remember(self, principal: Principal, text: str, kind: ItemType = ItemType.FACT) -> Stored:
        """Store a note in the person's own memory. The same note again changes nothing.

        Raises:
            Forbidden: the principal names no person, or may not write.
            Unprocessable: the text tries to change the assistant's policy, or has a credential.
            Conflict, TooLarge, VaultUnavailable
        """
        item = self._note(principal, text, kind)
        return retry_conflicts(
            lambda: self._store(principal, item),
            "other writers change the person's notes all the time: try again",
        )

    def correct(self, principal: Principal, item_id: str, text: str) -> Stored:
        """Replace a note, or end a claim about the person and store the new text as a note.

        Raises:
            NotFound: the item does not exist or is not the person's own.
            Unprocessable: the item is a quotation, has ended, or is in a cube made by hand; or the text is one
                that `remember` refuses.
            Forbidden, Conflict, VaultUnavailable
        """
        item = self._note(principal, text, ItemType.FACT)
        ((cube, old),) = Feedback(self._system).located(principal, [item_id])
        if _is_note(old, self._system.vault.get(principal, cube)):
            return retry_conflicts(
                lambda: self._replace(principal, cube, old, item),
                "other writers change the person's notes all the time: try again",
            )
        self._check_claim(principal, cube, old)
        # First the note: a kill in between leaves both, and the call can be repeated.
        stored = self.remember(principal, text)
        owner = self._system.knowledge.owner(cube)
        within = principal.in_persona(owner.persona if owner is not None else None)
        retired = Retired(old, since=to_datetime(now_us()), by=item.source or ORIGIN)
        Consolidator(self._system).take(within, [], origin=ORIGIN, retired=[retired])
        return stored

    # -- inside -----------------------------------------------------------------------------------

    def _note(self, principal: Principal, text: str, kind: ItemType) -> Item:
        principal.require(Role.WRITER)
        if not principal.person:
            raise Forbidden(
                "name the person whose memory it is: the header `X-Memos-User`, or a person token",
                param="user",
            )
        if not text.strip():
            raise BadRequest("`text` is empty", param="text")
        if is_instruction(text):
            raise Unprocessable(
                "it would change the permissions of the assistant, or store a secret in memory: state a "
                "fact without either",
                param="text",
            )
        item = Item(
            type=kind,
            text=text.strip(),
            speaker=TOOL,
            time=to_datetime(now_us()),
            session=principal.session,
        )
        item = self._system.redactors.of(principal.tenant).item(item)
        # Of the redacted text: a digest of a secret could be searched for.
        digest = sha256("\0".join((kind, plain(item.text))).encode())
        return item.model_copy(update={"source": f"{ORIGIN}:{digest[:24]}"})

    def _store(self, principal: Principal, item: Item) -> Stored:
        name, cube = newest_part(self._system, principal, NOTES, NOTES)
        # Moved to the head of prompts by hand: what tools add from then on does not stand there.
        if cube is not None and cube.meta.placement is Placement.STABLE:
            cube = None
        if cube is not None and (known := _ids(cube, item)):
            return Stored(cube.meta.id, cube.meta.version, known, False)
        provenance = Provenance(origin=ORIGIN, session=principal.session)
        if cube is not None and len(cube.items) < self._system.config.remember.items_per_cube:
            patch = CubePatch(append=[item], provenance=provenance)
            made = self._system.update(principal, cube.meta.id, patch, if_match=cube.meta.version)
        else:
            meta = NewMeta(name=name, tags=[NOTES], provenance=provenance)
            new = NewCube(meta=meta, payload=ExplicitPayload(content=[item]))
            made = self._system.create(principal, [new])[0]
        return Stored(made.meta.id, made.meta.version, _ids(made, item), True)

    def _replace(self, principal: Principal, cube_id: str, old: Item, item: Item) -> Stored:
        cube = self._system.vault.get(principal, cube_id)
        item = item.model_copy(update={"type": old.type})
        at = next((i for i, each in enumerate(cube.items) if each.id == old.id), None)
        if at is None:
            raise NotFound(f"there is no item {old.id!r} of yours here", param="item")
        items = [*cube.items[:at], item, *cube.items[at + 1 :]]
        patch = CubePatch(
            payload=ExplicitPayload(content=items),
            provenance=Provenance(origin=ORIGIN, session=principal.session),
        )
        made = self._system.update(principal, cube_id, patch, if_match=cube.meta.version)
        return Stored(made.meta.id, made.meta.version, _ids(made, item), True)

    def _check_claim(self, principal: Principal, cube_id: str, old: Item) -> None:
        if old.claim is None:
            raise Unprocessable(
                "the item is a quotation and is not corrected: `forget` it, or `remember` what holds",
                param="item",
            )
        if not is_consolidated(self._system.vault.get(principal, cube_id)):
            raise Unprocessable(
                "the item is in a cube that was made by hand: change it with `PATCH /v1/memory/cubes/…`",
                param="item",
            )
        if not holds(old, to_datetime(now_us())):
            raise Unprocessable("the item has ended already: `remember` what holds", param="item")


def _is_note(item: Item, cube: MemCube) -> bool:
    return item.speaker == TOOL and item.claim is None and NOTES in cube.meta.tags


def _ids(cube: MemCube, item: Item) -> list[str]:
    return [
        each.id or "" for each in cube.items if each.source == item.source and each.speaker == TOOL
    ]
