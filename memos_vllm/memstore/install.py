"""One version of a bundle, made into cubes, in place of what is installed of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from memos_vllm.cube.model import CubePatch, Kind, NewCube, NewMeta, Payload, Provenance
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.memstore.difference import CubeDifference, difference, header_difference
from memos_vllm.memstore.model import BundledCube
from memos_vllm.memstore.package import Package, read_payload
from memos_vllm.memstore.registry import Registry
from memos_vllm.vault.bundle_rows import Change, Installed

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class Installer:
    """Reads the cubes of one version from a registry, for one tenant."""

    def __init__(
        self, system: MemorySystem, principal: Principal, registry: Registry, package: Package
    ) -> None:
        self._system, self._principal = system, principal
        self._registry, self._package = registry, package
        self.skipped: dict[str, str] = {}
        """Cubes that do not fit the served model, with why."""
        self._cubes = [cube for cube in package.config.cubes if self._fits(cube)]

    def change(
        self, change: Change, found: Installed | None
    ) -> tuple[Change, list[CubeDifference]]:
        """A change with its cubes, and how they differ from what is installed.

        Raises:
            Unprocessable, TooLarge: a cube is damaged, or changes its kind.
            NotFound, RegistryUnavailable
        """
        there = dict(found.cubes) if found is not None else {}
        before, after = self._read(found)
        created, updated = {}, {}
        for cube in self._cubes:
            digest, header = self._package.content_digest(cube.name), self._header(cube)
            payload = after.get(cube.name)
            if cube.name not in there:
                assert payload is not None
                created[cube.name] = (digest, NewCube(meta=header, payload=payload))
            elif payload is not None or _described(found, cube.name) != cube.model_dump(
                mode="json"
            ):
                updated[cube.name] = (digest, _patch(header, payload))
        kept = {cube.name for cube in self._cubes}
        removed = [name for name in there if name not in kept]
        whole = dataclasses.replace(change, created=created, updated=updated, removed=removed)
        return whole, [*difference(before, after), *self._moved(found)]

    def missing(self, found: Installed) -> list[str]:
        """Cubes of the version that fit the served model and are not installed."""
        return [cube.name for cube in self._cubes if cube.name not in found.cubes]

    def differences(self, found: Installed) -> list[CubeDifference]:
        """What the version would change of what is installed. Raises as `change`."""
        return [*difference(*self._read(found)), *self._moved(found)]

    def _moved(self, found: Installed | None) -> list[CubeDifference]:
        """Installed cubes whose place in prompts or tags would change."""
        there = dict(found.cubes) if found is not None else {}
        before = [_described(found, cube.name) for cube in self._cubes if cube.name in there]
        known = [BundledCube.model_validate(each) for each in before if each is not None]
        return header_difference(known, self._cubes)

    def _read(self, found: Installed | None) -> tuple[dict[str, Payload], dict[str, Payload]]:
        """Payloads of cubes that change, as they are and as they would be."""
        there = dict(found.cubes) if found is not None else {}
        before: dict[str, Payload] = {}
        after: dict[str, Payload] = {}
        for cube in self._cubes:
            known = there.pop(cube.name, None)
            if known is not None and known[1] == self._package.content_digest(cube.name):
                continue
            after[cube.name] = payload = self._payload(cube)
            if known is None:
                continue
            before[cube.name] = old = self._system.vault.get(self._principal, known[0]).payload
            if old.type != payload.type:
                config = self._package.config
                raise Unprocessable(
                    f"{config.name} {config.version}: the cube {cube.name!r} changes its kind: its publisher has to give "
                    "it another name"
                )
        for name, (cube_id, _) in there.items():
            before[name] = self._system.vault.get(self._principal, cube_id).payload
        return before, after

    def _fits(self, cube: BundledCube) -> bool:
        served = self._system.served
        if cube.kind is not Kind.PARAMETRIC or served is None or cube.base_model is None:
            return True
        if cube.base_model == served.fingerprint:
            return True
        self.skipped[cube.name] = (
            f"an adapter for another model: {cube.base_model}; served is {served.fingerprint}"
        )
        return False

    def _payload(self, cube: BundledCube) -> Payload:
        """The payload of a cube as it is stored: redacted, cut into passages, an adapter checked."""
        most = (self._system.config.store.bundle_bytes, self._system.config.limits.items_per_cube)
        raw = NewCube(payload=read_payload(self._registry, self._package, cube, *most))
        redacted = self._system.redactors.of(self._principal.tenant).cube(raw)
        return self._system.cut(self._principal, redacted.payload)

    def _header(self, cube: BundledCube) -> NewMeta:
        config = self._package.config
        note = f"{config.name} {config.version}, {self._package.digest}"
        return NewMeta(
            name=f"{config.name}:{cube.name}",
            shared=True,
            placement=cube.placement,
            priority=cube.priority,
            tags=cube.tags,
            provenance=Provenance(origin=f"store:{config.name}", note=note),
        )


def _patch(header: NewMeta, payload: Payload | None) -> CubePatch:
    return CubePatch(
        payload=payload,
        placement=header.placement,
        priority=header.priority,
        tags=header.tags,
        provenance=header.provenance,
    )


def _described(found: Installed | None, cube: str) -> Any:
    cubes = found.config.get("cubes", []) if found is not None else []
    return next((each for each in cubes if each["name"] == cube), None)
