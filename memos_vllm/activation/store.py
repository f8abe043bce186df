"""MemStore of activation memory: segment files on two tiers, and the cubes and scopes they belong to.

    <disk>/segments/<model>/<scope>/<key>.safetensors     every segment
    <ram>/<model>/<scope>/<key>.safetensors               the hot ones again, in shared memory
    <disk>/cubes/<cube>/<model>+<scope>+<key>             one mark per cube in a segment's prefix
    <disk>/contexts/<text>/<model>+<scope>+<key>          the segments that end with a text
    <disk>/quality/                                       measured cost of approximate KV (`quality`)
    <disk>/habits/                                        segments of each person's last prompts (`recent`)
    <disk>/pins/<cube>                                    cubes whose segments are not evicted
    <disk>/compacts/                                      compacts of texts (`compacts`), not evicted
    <disk>/gone/                                          deleted cubes and scopes (`tombstones`)
    <disk>/lmcache/                                       objects in LMCache (`lmcache`)

Several processes share the folders: engine workers write and read, the API process wipes.  A mark is
made before its segment appears, so forgetting a cube finds every chain that contains it.  A writer
looks at `gone` after its segment appeared, so a request in flight while its cube is deleted brings
nothing back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from memos_vllm.activation.compacts import CompactNotes
from memos_vllm.activation.erase import SUFFIX, wipe
from memos_vllm.activation.lmcache import RemoteKV
from memos_vllm.activation.names import SegmentName, scope_folder
from memos_vllm.activation.quality import Quality, QualityNotes
from memos_vllm.activation.recent import RecentSegments
from memos_vllm.activation.tier import Tier
from memos_vllm.activation.tombstones import Tombstones, short
from memos_vllm.config.kv import KVConfig
from memos_vllm.cube.ids import CubeVersion

log = logging.getLogger(__name__)
_MARK_SECONDS = 86_400.0


class SegmentStore:
    def __init__(self, config: KVConfig, folder: Path) -> None:
        """
        Args:
            config: bounds of the tiers.
            folder: of the disk tier.
        """
        self._root = folder
        self._cubes = folder / "cubes"
        self.gone = Tombstones(folder / "gone")
        self.quality = QualityNotes(folder / "quality")
        self.recent = RecentSegments(folder / "habits")
        self._pins = folder / "pins"
        self.compacts = CompactNotes(folder / "compacts")
        self.disk = Tier("disk", folder / "segments", config.max_bytes)
        self.ram = _ram_tier(config, folder)
        self.remote = RemoteKV(config, folder / "lmcache")

    def where(self, name: SegmentName) -> str | None:
        """The fastest tier that holds a segment; one or two calls of the file system."""
        text = str(name)
        if self.ram is not None and self.ram.has(text):
            return self.ram.name
        return self.disk.name if self.disk.has(text) else None

    def has_all(self, names: Iterable[SegmentName]) -> bool:
        """Whether every worker's share is here."""
        return all(self.where(name) is not None for name in names)

    def contexts(self, digest: str) -> list[SegmentName]:
        """The segments that end with a text, in any context; the latest first."""
        folder = self._root / "contexts" / digest[:2] / digest
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            dated = [(entry.stat().st_mtime, entry.name) for entry in entries]
            found = (_parsed(name) for _, name in sorted(dated, reverse=True))
            return [name for name in found if name is not None]
        return []

    def note_context(self, digest: str, name: SegmentName) -> None:
        folder = self._root / "contexts" / digest[:2] / digest
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name.mark).touch()

    def named(self, key: str) -> list[SegmentName]:
        """Segments on disk with this key, in every scope and of every worker."""
        if not key.isalnum():
            return []
        found = sorted(self.disk.folder.glob(f"*/*/{key}*{SUFFIX}"))
        paths = (path.relative_to(self.disk.folder).as_posix() for path in found)
        names = [SegmentName.parse(path.removesuffix(SUFFIX)) for path in paths]
        return [name for name in names if name.key == key]

    # -- forgetting -------------------------------------------------------------------------------

    def forget(self, cube: str, sequence: int | None = None) -> int:
        """Wipe every chain that contains a cube, on all tiers; returns the segments wiped.

        Args:
            sequence: of the first version whose KV may be saved; None: the cube is deleted.
        Raises:
            OSError: not every file could be wiped; a later call wipes the rest.
        """
        self._make(self.gone.folder)
        if sequence is None:
            self.pin(cube, on=False)
        self.gone.bury(cube, sequence)
        folder, wiped = self._cubes / short(cube), 0
        while names := self._marked(folder):
            for name in names:
                wiped += self.wipe_segment(name)
                (folder / name.mark).unlink(missing_ok=True)
        self.compacts.forget(cube)
        return wiped + self.remote.forget_cube(short(cube))

    def forget_scope(self, scope: str, *, compacts: bool = True) -> None:
        """Wipe every segment of one scope, which is a person's or a tenant's.

        Args:
            compacts: also those, which hold the text of one cube each and no conversation.
        """
        self._make(self.gone.folder)
        self.gone.bury_scope(short(scope))
        self.recent.forget(short(scope))
        names = set() if compacts else self._of_compacts()
        kept = {f"{name}{SUFFIX}" for name in names}
        for tier in reversed(self.tiers()):
            for path in tier.folder.glob(f"*/{short(scope)}/*{SUFFIX}"):
                if path.relative_to(tier.folder).as_posix() not in kept:
                    wipe(path)
        self.remote.forget_scope(short(scope))

    def close_scope(self, scope: str) -> None:
        """Wipe a scope that no later prompt has, with all marks of it. Raises OSError."""
        self._make(self.gone.folder)
        name = scope_folder(scope)
        self.gone.close_scope(name)
        self.forget_scope(scope)
        self.compacts.forget_scope(name)
        for tier in self.tiers():
            for folder in tier.folder.glob(f"*/{name}"):
                shutil.rmtree(folder, ignore_errors=True)
        marks = (self._cubes.glob(f"*/*+{name}+*"), self.quality.folder.glob(f"*+{name}+*"))
        noted = (self._root / "contexts").glob(f"*/*/*+{name}+*")
        for mark in itertools.chain(*marks, noted):
            mark.unlink(missing_ok=True)

    def count_scope(self, scope: str) -> int:
        """Files with KV of a scope, on all tiers, and objects of it in LMCache."""
        name = scope_folder(scope)
        files = [path for tier in self.tiers() for path in tier.folder.glob(f"*/{name}/*{SUFFIX}")]
        return len(files) + self.remote.count_scope(name)

    def generation(self, scope: str) -> int:
        """How often a scope was forgotten: KV planned under an earlier count is not saved."""
        return self.gone.generation(scope_folder(scope))

    def pin(self, cube: str, on: bool = True) -> None:
        """Exempt every segment that contains this cube from eviction."""
        pin = self._pins / short(cube)
        if on:
            self._make(self._pins)
            pin.touch()
        else:
            pin.unlink(missing_ok=True)

    def has_pin(self, cube: str) -> bool:
        return (self._pins / short(cube)).exists()

    def pinned(self) -> set[str]:
        """Names (`str`) of the segments whose prefix contains a pinned cube, and of the compacts."""
        of_cubes = {
            str(name)
            for pin in self._pins.glob("*")
            for name in self._marked(self._cubes / pin.name)
        }
        return of_cubes | self._of_compacts()

    def sizes(self, cube: str, scopes: Iterable[str] | None = None) -> dict[SegmentName, int]:
        """The segments whose prefix contains a cube, with their bytes on disk.

        Args:
            scopes: only segments of these; None: of every scope.
        """
        found = {}
        allowed = None if scopes is None else {scope_folder(scope) for scope in scopes}
        for name in self._marked(self._cubes / short(cube)):
            if allowed is None or name.scope in allowed:
                with contextlib.suppress(FileNotFoundError):
                    found[name] = self.disk.path(str(name)).stat().st_size
        return found

    def qualities(self, cube: str, names: Iterable[SegmentName]) -> list[Quality]:
        """Measured cost of a cube's own KV in other contexts, the best first.

        Args:
            names: of the segments whose prefix contains it (`sizes`).
        """
        known = [self.quality.read(name) for name in names]
        return sorted((q for q in known if q and q.cube == cube), key=lambda q: q.kl)

    def empty_memory(self) -> None:
        """Remove the tier in shared memory when a server ends: the disk has every segment."""
        if self.ram is not None:
            shutil.rmtree(self.ram.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove leftovers of killed writers, old tombstones, and marks of segments that are gone."""
        for tier in self.tiers():
            tier.sweep()
        self.gone.sweep()
        noted = (self._root / "contexts").glob("*/*/*")
        measured = self.quality.folder.glob("*")
        for mark in itertools.chain(self._cubes.glob("*/*"), noted, measured):
            name = _parsed(mark.name)
            if name is None or not any(tier.has(str(name)) for tier in self.tiers()):
                with contextlib.suppress(OSError):
                    if time.time() - mark.stat().st_mtime > _MARK_SECONDS:
                        mark.unlink()
        self.sweep_compacts()

    def sweep_compacts(self) -> None:
        """Remove the notes of compacts whose segments are gone."""
        for text, compact in self.compacts.all():
            if self.where(compact.name) is None:
                self.compacts.remove(text, compact)

    def make_folders(self) -> None:
        """Make the folders, for this user alone; before the first write, never for a lookup."""
        self._make(
            self._cubes, self.gone.folder, self._pins, *(tier.folder for tier in self.tiers())
        )

    # -- inside -----------------------------------------------------------------------------------

    def _make(self, *folders: Path) -> None:
        for folder in (self._root, *folders):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _of_compacts(self) -> set[str]:
        """Names (`str`) of the segments that are compacts."""
        return {
            str(dataclasses.replace(compact.name, rank=rank))
            for _, compact in self.compacts.all()
            for rank in compact.ranks
        }

    def tiers(self) -> list[Tier]:
        return [self.disk] if self.ram is None else [self.ram, self.disk]

    def wipe_segment(self, name: SegmentName) -> bool:
        """Wipe a segment on every tier; False: no tier has it."""
        self.quality.forget(name)
        # The disk first: otherwise another thread copies the file into memory again meanwhile.
        wiped = [tier.wipe(str(name)) for tier in reversed(self.tiers())]
        return any(wiped)

    def mark(self, cube: str, name: SegmentName) -> Path:
        """The file that says that a cube is in a segment's prefix.

        Args:
            cube: `id@sequence`.
        """
        return self._cubes / short(CubeVersion.parse(cube).cube) / name.mark

    @staticmethod
    def _marked(folder: Path) -> list[SegmentName]:
        """The segments whose marks are in a folder."""
        with contextlib.suppress(FileNotFoundError):
            found = (_parsed(mark.name) for mark in folder.iterdir())
            return [name for name in found if name is not None]
        return []


def _parsed(mark: str) -> SegmentName | None:
    """The segment that a mark names; None: another program made this file."""
    try:
        return SegmentName.parse(mark)
    except ValueError:
        log.warning("%s is not the mark of a segment: it is ignored", mark)
        return None


def _ram_tier(config: KVConfig, folder: Path) -> Tier | None:
    """The tier in shared memory: one per disk folder and user, the same for every process."""
    if not config.ram_bytes or not config.ram_path.is_dir():
        return None
    name = f"memos-kv-{os.getuid()}-{short(str(folder.resolve()))[:12]}"
    return Tier("ram", config.ram_path / name, config.ram_bytes)
