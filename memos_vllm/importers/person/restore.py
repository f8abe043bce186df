"""Import of a whole person, cube by cube; a run that was interrupted is run again.

A cube that the person has already, from an earlier run, stays as it is.  A cube that cannot be imported
is named with its reason, and the others are imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memos_vllm.cube.ids import CubeId, to_us
from memos_vllm.cube.model import Kind, Mark
from memos_vllm.cube.moments import LATEST
from memos_vllm.errors import BadRequest, TooLarge, Unprocessable
from memos_vllm.governance.principal import Principal, Role, check_session
from memos_vllm.importers.person.archive import Archive, Entry
from memos_vllm.importers.skipped import Skipped
from memos_vllm.parametric.adapter.packed import upload_of_import
from memos_vllm.system import MemorySystem
from memos_vllm.vault.person_archive import PersonArchive
from memos_vllm.vault.person_restore import PersonRestore
from memos_vllm.vault.served_model import ServedModels

_SETTLED = 16
"""Cubes that are indexed together."""
_TEXTS = ("user", "reply", "model", "request_id", "prompt_sha256")


@dataclasses.dataclass
class Outcome:
    created: int = 0
    held: int = 0
    """Cubes that the person had already, from this archive."""
    turns: int = 0
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names that were taken, and what the imported cube is called instead."""
    skipped: Skipped = dataclasses.field(default_factory=Skipped)


class PersonImport:
    def __init__(
        self, system: MemorySystem, principal: Principal, path: Path, person: str | None = None
    ) -> None:
        """An import of an archive, which is checked to its end.

        Args:
            person: whose memory it becomes; None: the archive's person.
        Raises:
            Forbidden: the key is no admin's.
            BadRequest
        """
        principal.require(Role.ADMIN)
        self.archive = Archive(path, system.config.limits.adapter_bytes)
        self.person = person or self.archive.person
        mine = principal.as_person(self.person)
        self._principal = dataclasses.replace(mine, epoch=system.erasures.serial)
        self._system = system
        self._restore = PersonRestore(
            system.database, system.payloads, system.config.limits.items_per_cube
        )
        self._redactor = system.redactors.of(principal.tenant)
        self._unsettled: list[CubeId] = []
        served = system.served
        self._model = served.fingerprint if served else ServedModels(system.database).last()

    def run(self, progress: Callable[[int], None] = lambda done: None) -> Outcome:
        """Import all that is not imported yet.

        Raises:
            Forbidden, QuotaExceeded, VaultUnavailable, Erased: what was imported before stays, and the
                next run goes on behind it.
        """
        outcome, linked = Outcome(), list[CubeId]()
        for number, entry in enumerate(self.archive.cubes(outcome.skipped), start=1):
            cube = self._cube(entry, outcome) if entry is not None else None
            if entry is not None and cube is not None and entry.cube.has_parents:
                linked.append(cube)
            progress(number)
        self._settle(at=1)
        for cube in linked:
            self._link(cube, outcome)
        self._turns(outcome)
        detail = {
            "person": self.person,
            "cubes": outcome.created,
            "held": outcome.held,
            "turns": outcome.turns,
            "left_out": outcome.skipped.count(),
        }
        self._system.audit.note(self._principal, "person.import", "person", detail)
        return outcome

    def _cube(self, entry: Entry, outcome: Outcome) -> CubeId | None:
        cube = entry.cube.of_person(self.archive.person, self.person)
        name = cube.name or cube.id
        if (known := self._restore.held(self._principal, cube.id)) is not None:
            outcome.held += 1
            return known
        try:
            files = self._checked(entry)
            restored = self._restore.cube(self._principal, cube, files, self._redactor)
        except (Unprocessable, TooLarge) as error:
            what = "adapter" if cube.kind is Kind.PARAMETRIC else "cube"
            outcome.skipped.add(what, error.message, name)
            return None
        outcome.created += restored.is_new
        outcome.held += not restored.is_new
        if restored.name is not None:
            outcome.renamed[name] = restored.name
        for reason in restored.left_out:
            outcome.skipped.add("grant", reason, name)
        if restored.is_new:
            self._settle(restored.cube)
        return restored.cube

    def _settle(self, *cubes: CubeId, at: int = _SETTLED) -> None:
        """Index restored cubes, so many at a time."""
        self._unsettled += cubes
        if len(self._unsettled) >= at:
            self._system.settle(self._unsettled)
            self._unsettled = []

    def _link(self, cube: CubeId, outcome: Outcome) -> None:
        try:
            self._restore.link(self._principal, cube)
        except Unprocessable as error:
            outcome.skipped.add("derivation", error.message, cube)

    def _checked(self, entry: Entry) -> dict[str, bytes]:
        """Files of an adapter, checked as an upload is. Raises Unprocessable, TooLarge."""
        cube = entry.cube
        if cube.kind is not Kind.PARAMETRIC:
            return {}
        if (
            None not in (self._model, cube.model_fingerprint)
            and cube.model_fingerprint != self._model
        ):
            raise Unprocessable(
                "it was trained for another base model than this server serves: train it again from "
                "the imported cubes"
            )
        checked = {}
        for digest in {version.file for version in cube.versions if version.file}:
            adapter = self._system.uploads.read(
                upload_of_import(entry.files[digest]),
                self._system.config.limits.adapter_bytes,
                self._principal.tenant,
            )
            if self._system.served is not None:
                self._system.served.check(adapter)
            checked[digest] = adapter.file
        return checked

    def _turns(self, outcome: Outcome) -> None:
        """Store the turns that wait; they become memory as every turn does."""
        known = {
            _turn_key(body)
            for body in PersonArchive(self._system.database, self._system.payloads).turns(
                self._principal
            )
        }
        for line, body in self.archive.turns():
            if (checked := _turn(body)) is None:
                outcome.skipped.add("turn", "it has not the form of a turn", f"line {line}")
                continue
            if (key := _turn_key(checked)) in known:
                continue
            who = dataclasses.replace(
                self._principal.in_persona(checked.get("persona")),
                role=Role.WRITER,
                session=checked.get("session"),
            )
            clean, _ = self._system.redactors.of(who.tenant).body(checked)
            clean.pop("session", None)
            self._system.turns.add(who, clean, self._turn_id(key, checked), is_repeated=True)
            known.add(key)
            outcome.turns += 1

    def _turn_id(self, key: tuple[str, int], body: Mapping[str, Any]) -> str:
        """The same for the same turn of the same person: one that waits is not stored twice."""
        name = repr((self._principal.tenant, self.person, *key)).encode()
        moment = max(0, min(int(body["at_us"]) // 1000, (1 << 48) - 1))
        return f"turn_{moment:012x}{hashlib.sha256(name).hexdigest()[:20]}"


def _turn_key(body: Mapping[str, Any]) -> tuple[str, int]:
    return str(body.get("request_id")), int(body.get("at_us") or 0)


def _turn(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """A turn in the form of `turns.turn_body`; None: it has another one."""
    made: dict[str, Any] = {name: body.get(name) for name in (*_TEXTS, "at_us", "position")}
    if not all(isinstance(made[name], str) for name in _TEXTS):
        return None
    if not all(isinstance(made[name], int) for name in ("at_us", "position")):
        return None
    if not 0 < made["at_us"] <= to_us(LATEST):
        return None
    try:
        for name in ("session", "persona", "timezone"):
            if isinstance(body.get(name), str):
                made[name] = check_session(str(body[name]))
    except BadRequest:
        return None
    tools = body.get("tools")
    if isinstance(tools, list) and all(isinstance(each, dict) for each in tools):
        made["tools"] = [{str(k): str(v) for k, v in each.items()} for each in tools]
    made["forgot"] = body.get("forgot") is True
    if body.get("mark") in set(Mark):
        made["mark"] = body["mark"]
    return made
