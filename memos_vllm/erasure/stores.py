"""Stores outside of the database: what they hold of a person, and its deletion.  Every step is idempotent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import CubeId, PersonId, TenantId
from memos_vllm.errors import IndexUnavailable, SegmentsUnavailable, Unavailable
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.transforms.worker import sweep
from memos_vllm.vault.erasures import Erasure
from memos_vllm.vault.items import Owner

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_BATCH = 500
_TRAINING_SECONDS = 30.0


class OutsideStores:
    def __init__(self, system: MemorySystem, erasure: Erasure) -> None:
        self._system = system
        self._owner = Owner(erasure.tenant, erasure.person)
        self._cubes: list[str] = list(erasure.work["cubes"])
        self._others: dict[str, str] = dict(erasure.work["others"])
        """Owners of erased cubes that were made from the person's."""
        self._scopes: list[str] = list(erasure.work["scopes"])

    def count(self) -> dict[str, int]:
        """What is stored of the erased cubes now. Raises IndexUnavailable, SegmentsUnavailable."""
        system, gone = self._system, set(self._cubes)
        vectors = 0
        for owner in self._owners():
            stored = system.index.count_by_cube(owner)
            vectors += sum(number for cube, number in stored.items() if cube in gone)
        try:
            kv = sum(system.segments.count_scope(scope) for scope in self._scopes)
            kv += sum(len(system.segments.sizes(cube)) for cube in self._cubes)
            search = sum(system.part_files.count(owner, self._cubes) for owner in self._owners())
        except OSError as error:
            raise SegmentsUnavailable(f"stored KV cannot be read: {error}") from error
        return {
            "vectors": vectors,
            "payload_files": sum(
                system.payloads.count(self._owner.tenant, CubeId(cube)) for cube in self._cubes
            ),
            "search_files": search,
            "kv": kv,
            "training_folders": len(self._training()),
        }

    def wipe_cubes(self) -> None:
        """Delete the cubes' vectors, payload files, search files and KV.

        Raises:
            Unavailable: a store does not answer; a repetition goes on.
        """
        if not self._system.index.claim():
            raise IndexUnavailable("another process has the vector store: it erases, too")
        for start in range(0, len(self._cubes), _BATCH):
            self._system.indexer.drain([CubeId(c) for c in self._cubes[start : start + _BATCH]])
        known = {cube for cube, _ in self._system.index_state.cubes(self._owner)}
        for cube in self._system.index.count_by_cube(self._owner):
            if cube not in known:  # of a cube that was deleted before, or by an older version
                self._system.index.drop_cube(self._owner, cube)
        self._system.part_files.keep(
            self._owner, self._system.index_state.cube_versions(self._owner)
        )
        for owner in self._owners():
            self._system.part_files.drop_folder(owner)

    def wipe_kv(self) -> None:
        """Wipe the KV that was stored for the person. Raises SegmentsUnavailable."""
        try:
            for scope in self._scopes:
                self._system.segments.close_scope(scope)
        except OSError as error:
            raise SegmentsUnavailable(f"stored KV cannot be wiped: {error}") from error

    def wipe_adapters(self) -> None:
        """Remove unpacked copies of adapters and folders of jobs.

        Raises:
            Unavailable: a training process does not end.
        """
        if not self._system.adapters_changed():
            # No engine runs here: all copies go that none uses, and are made again from the vault.
            folders = AdapterFolders(self._system.config.adapters_path)
            for name in folders.names():
                folders.remove(name)
        deadline = time.monotonic() + _TRAINING_SECONDS
        while True:
            sweep(self._system)
            if not self._training():
                return
            if time.monotonic() > deadline:
                raise Unavailable("a training process of an erased job does not end")
            time.sleep(0.2)

    def compact(self) -> bool:
        """Compact Chroma's files; False: a Chroma server has them. Raises IndexUnavailable."""
        done = [self._system.index.compact(owner) for owner in self._owners()]
        return all(done)

    def _owners(self) -> Sequence[Owner]:
        people = dict.fromkeys([self._owner.person, *map(PersonId, self._others.values())])
        return [Owner(TenantId(self._owner.tenant), person) for person in people]

    def _training(self) -> list[str]:
        """Folders of jobs that no record has: of deleted jobs."""
        root = self._system.config.training_path
        if not root.is_dir():
            return []
        known = self._system.transforms.ids()
        return [path.name for path in root.iterdir() if path.name not in known]
