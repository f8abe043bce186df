"""Redaction of what is stored already, after a policy has become stricter: a report, then the change.

A cube whose head holds what the policy keeps out gets a new version; its older versions that hold it,
and all before them, are deleted with their files.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from memos_vllm.cube.ids import CubeId, VersionId
from memos_vllm.cube.lifecycle import WRITABLE
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Header, Kind, Provenance, State
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import EVERY_PERSONA, Principal
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.system import MemorySystem
from memos_vllm.vault.forgotten import Forgotten
from memos_vllm.vault.listing import every
from memos_vllm.vault.quotas import admitted
from memos_vllm.vault.views import CubeFilter

_UNDO = "redaction"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One cube that holds what the policy keeps out. It has no text."""

    cube: str
    person: str | None
    kinds: Counter[str]
    """By kind, in the head."""
    older: int
    """Older versions that hold it."""
    done: bool
    problem: str | None = None
    """Why it was not changed."""


def redact_stored(system: MemorySystem, admin: Principal, *, apply: bool) -> Iterator[Finding]:
    """Each cube of the tenant that holds what its policy keeps out, changed if `apply`.

    Raises:
        VaultUnavailable, Conflict
    """
    everyone = admin.in_persona(EVERY_PERSONA)
    redactor = system.redactors.of(admin.tenant)
    # All of them before the first change, which would move it to another page.
    for header in list(every(system.views, everyone, CubeFilter())):
        if header.kind is not Kind.EXPLICIT or redactor.is_off:
            continue
        try:
            found, last = _finding(system, everyone, header, redactor)
            if found is not None:
                yield _changed(system, everyone, header, found, last) if apply else found
        except NotFound:
            continue  # deleted meanwhile
        except DamagedPayload as error:
            yield Finding(header.id, header.person, Counter(), 0, False, error.message)


def _finding(
    system: MemorySystem, everyone: Principal, header: Header, redactor: Redactor
) -> tuple[Finding | None, str | None]:
    """What a cube holds, and the newest of its older versions that holds it."""
    head, older = Counter[str](), []
    for version in system.vault.history(everyone, header.id):
        kinds = Counter[str]()
        cube = system.vault.get(everyone, header.id, version.id)
        for item in cube.items:
            redactor.item(item, kinds)
        labels = [version.provenance.note or "", version.provenance.session or ""]
        if version.id == header.version:
            head = kinds
            labels += [header.name or "", *header.tags]
        for label in labels:
            kinds.update(redactor.text(label).kinds)
        if kinds and version.id != header.version:
            older.append(version.id)
    if not head and not older:
        return None, None
    found = Finding(header.id, header.person, head, len(older), False)
    return found, older[0] if older else None


@admitted()
def _changed(
    system: MemorySystem, everyone: Principal, header: Header, found: Finding, last: str | None
) -> Finding:
    before = last
    if header.state is State.FROZEN:
        return dataclasses.replace(found, problem=f"the cube is {header.state}")
    if found.kinds:
        if header.state not in WRITABLE:
            return dataclasses.replace(found, problem=f"the cube is {header.state}")
        cube = system.vault.get(everyone, header.id, header.version)
        change: dict[str, Any] = {
            "payload": ExplicitPayload(content=cube.items),
            "tags": header.tags,
        }
        if header.name is not None:
            change["name"] = header.name
        origin = Provenance(origin=_UNDO)
        patch = CubePatch.model_validate(change | {"provenance": origin})
        system.update(everyone, header.id, patch, if_match=header.version)
        before = header.version
    if before is not None:
        gone = Forgotten(_UNDO, CubeId(header.id), VersionId(before), header.state)
        system.forgotten.purge(gone.subject)
    return dataclasses.replace(found, done=True)
