"""MemStore of activation memory: segment files on two tiers, and who they belong to.

    <disk>/segments/<model>/<scope>/<key>.safetensors     what is kept
    <ram>/<model>/<scope>/<key>.safetensors               the hot part again, in shared memory
    <disk>/cubes/<cube>/<model>.<scope>.<key>             one mark per cube in a segment's prefix
    <disk>/contexts/<text>/<model>.<scope>.<key>          in which segments a text stands last
    <disk>/quality/                                       what approximate KV cost (quality)
    <disk>/habits/                                        who used what of late (habits)
    <disk>/pins/<cube>                                    cubes whose KV stays
    <disk>/gone/                                          what was forgotten (tombstones)
    <disk>/lmcache/                                       what LMCache holds of whom (`remote`)

Several processes share the folders: engine workers write and read, the API process wipes.  A mark is
made before its segment appears, so forgetting a cube finds every chain that contains it, and a
writer looks at `gone` after its segment appeared, so a request that was on its way while its cube
was deleted brings nothing back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from memos_vllm.activation.chain import Segment, chain_keys
from memos_vllm.activation.erase import SUFFIX, wipe
from memos_vllm.activation.lmcache import RemoteKV
from memos_vllm.activation.quality import Quality, QualityNotes
from memos_vllm.activation.recent import RecentSegments
from memos_vllm.activation.tier import Tier
from memos_vllm.activation.tombstones import Tombstones, short
from memos_vllm.config.tree import KVConfig

_MARK_SECONDS = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentName:
    model: str
    scope: str
    key: str
    rank: str = ""
    """`1of2` where a model is spread over several workers: each keeps its own heads."""

    @classmethod
    def of(cls, model: bytes, scope: str, key: str, rank: str = "") -> SegmentName:
        return cls(model.hex()[:16], short(scope.partition("/")[0]), key, rank)

    def __str__(self) -> str:
        rank = f".{self.rank}" if self.rank else ""
        return f"{self.model}/{self.scope}/{self.key}{rank}"


@dataclasses.dataclass(frozen=True)
class Namer:
    """Names of a chain's segments under one model, alike in every process."""

    model: bytes
    ranks: tuple[str, ...] = ("",)

    def under(self, adapter: str) -> Namer:
        """The same model with an adapter attached: none of its KV is the model's own.

        Args: adapter: its name in the engine, which is a digest of its contents.
        """
        model = hashlib.sha256(self.model + adapter.encode()).digest()
        return dataclasses.replace(self, model=model)

    def at(self, scope: str, key: str) -> SegmentName:
        """A segment by its folder and key, on the first worker."""
        return SegmentName(self.model.hex()[:16], scope, key, self.ranks[0])

    def names(
        self, tokens: Sequence[int], segments: Sequence[Segment]
    ) -> list[tuple[SegmentName, ...]]:
        """For each segment, its file on every worker."""
        keys = chain_keys(self.model, tokens, segments)
        return [
            tuple(SegmentName.of(self.model, segment.scope, key, rank) for rank in self.ranks)
            for segment, key in zip(segments, keys, strict=True)
        ]


class SegmentStore:
    def __init__(self, config: KVConfig, folder: Path) -> None:
        """Args: folder: of the disk tier."""
        self._root = folder
        self._cubes = folder / "cubes"
        self.gone = Tombstones(folder / "gone")
        self.quality = QualityNotes(folder / "quality")
        self.recent = RecentSegments(folder / "habits")
        self._pins = folder / "pins"
        self.disk = Tier("disk", folder / "segments", config.max_bytes)
        self.ram = _ram_tier(config, folder)
        self.remote = RemoteKV(config, folder / "lmcache")

    def where(self, name: SegmentName) -> str | None:
        """The fastest tier that holds a segment. One or two questions to the file system."""
        text = str(name)
        if self.ram is not None and self.ram.has(text):
            return self.ram.name
        return self.disk.name if self.disk.has(text) else None

    def has_all(self, names: Iterable[SegmentName]) -> bool:
        """Whether every worker's share is here."""
        return all(self.where(name) is not None for name in names)

    def contexts(self, digest: str) -> list[str]:
        """Names of the segments that hold a text, in whatever context; the latest first."""
        folder = self._root / "contexts" / digest[:2] / digest
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            dated = [(entry.stat().st_mtime, entry.name) for entry in entries]
            return [name.replace("+", "/") for _, name in sorted(dated, reverse=True)]
        return []

    def note_context(self, digest: str, name: SegmentName) -> None:
        folder = self._root / "contexts" / digest[:2] / digest
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / str(name).replace("/", "+")).touch()

    def named(self, key: str) -> list[SegmentName]:
        """Segments on disk with this key, whosever they are: of one worker where there are several."""
        if not key.isalnum():
            return []
        found = sorted(self.disk.folder.glob(f"*/*/{key}*{SUFFIX}"))
        parts = [(path.parts[-3], path.parts[-2], path.name.removesuffix(SUFFIX)) for path in found]
        return [
            SegmentName(model, scope, *name.split(".", 1))
            for model, scope, name in parts
            if name.partition(".")[0] == key
        ]

    # -- forgetting -------------------------------------------------------------------------------

    def forget(self, cube: str, sequence: int | None = None) -> int:
        """Wipe every chain that contains a cube, on all tiers; returns the segments wiped.

        Args:
            sequence: of the first version whose KV may come from now on; None: the cube is gone.
        Raises:
            OSError: not everything could be wiped; a later call does what remains.
        """
        self._make(self.gone.folder)
        if sequence is None:
            self.pin(cube, on=False)
        self.gone.bury(cube, sequence)
        folder, wiped = self._cubes / short(cube), 0
        while marks := self._marks(folder):
            for mark in marks:
                wiped += self.wipe_segment(mark.name.replace("+", "/"))
                mark.unlink(missing_ok=True)
        return wiped + self.remote.forget_cube(short(cube))

    def forget_scope(self, scope: str) -> None:
        """Wipe everything of one scope: a person or a tenant that leaves."""
        self._make(self.gone.folder)
        self.gone.bury_scope(short(scope))
        self.recent.forget(short(scope))
        for tier in reversed(self.tiers()):
            for path in tier.folder.glob(f"*/{short(scope)}/*{SUFFIX}"):
                wipe(path)
        self.remote.forget_scope(short(scope))

    def generation(self, scope: str) -> int:
        """Goes into orders: what was planned before its scope was forgotten is not kept."""
        return self.gone.generation(short(scope.partition("/")[0]))

    def pin(self, cube: str, on: bool = True) -> None:
        """Keep what contains this cube whatever else is needed."""
        pin = self._pins / short(cube)
        if on:
            self._make(self._pins)
            pin.touch()
        else:
            pin.unlink(missing_ok=True)

    def has_pin(self, cube: str) -> bool:
        return (self._pins / short(cube)).exists()

    def pinned(self) -> set[str]:
        """Names of the segments whose prefix contains a pinned cube."""
        return {
            mark.name.replace("+", "/")
            for pin in self._pins.glob("*")
            for mark in self._marks(self._cubes / pin.name)
        }

    def sizes(self, cube: str, scopes: Iterable[str] | None = None) -> dict[str, int]:
        """The segments whose prefix contains a cube, with their bytes on disk.

        Args:
            scopes: only what is kept for these; None: for whomever.
        """
        found = {}
        seen = None if scopes is None else {short(scope.partition("/")[0]) for scope in scopes}
        for mark in self._marks(self._cubes / short(cube)):
            name = mark.name.replace("+", "/")
            if seen is None or name.split("/")[1] in seen:
                with contextlib.suppress(FileNotFoundError):
                    found[name] = self.disk.path(name).stat().st_size
        return found

    def qualities(self, cube: str, names: Iterable[str]) -> list[Quality]:
        """What was measured of a cube's own KV in other places, the best first.

        Args:
            names: of the segments whose prefix contains it (`sizes`).
        """
        known = [self.quality.read(name) for name in names]
        return sorted((q for q in known if q and q.cube == cube), key=lambda q: q.kl)

    def empty_memory(self) -> None:
        """Give shared memory back, at the end of a server: the disk has it all."""
        if self.ram is not None:
            shutil.rmtree(self.ram.folder, ignore_errors=True)

    def sweep(self) -> None:
        """What nobody else cleans: leftovers of killed writers, old tombstones, empty marks."""
        for tier in self.tiers():
            tier.sweep()
        self.gone.sweep()
        noted = (self._root / "contexts").glob("*/*/*")
        measured = self.quality.folder.glob("*")
        for mark in itertools.chain(self._cubes.glob("*/*"), noted, measured):
            if not any(tier.has(mark.name.replace("+", "/")) for tier in self.tiers()):
                with contextlib.suppress(OSError):
                    if time.time() - mark.stat().st_mtime > _MARK_SECONDS:
                        mark.unlink()

    def make_folders(self) -> None:
        """For this user alone. They are made with the first write: looking makes nothing."""
        self._make(
            self._cubes, self.gone.folder, self._pins, *(tier.folder for tier in self.tiers())
        )

    # -- inside -----------------------------------------------------------------------------------

    def _make(self, *folders: Path) -> None:
        for folder in (self._root, *folders):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def tiers(self) -> list[Tier]:
        return [self.disk] if self.ram is None else [self.ram, self.disk]

    def wipe_segment(self, name: str) -> bool:
        # On all of them; the disk first, so that nothing is copied into memory behind our back.
        self.quality.forget(name)
        wiped = [tier.wipe(name) for tier in reversed(self.tiers())]
        return any(wiped)

    def mark(self, cube: str, name: SegmentName) -> Path:
        """The file that says that a cube stands in a segment's prefix."""
        return self._cubes / short(cube.partition("@")[0]) / str(name).replace("/", "+")

    @staticmethod
    def _marks(folder: Path) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return list(folder.iterdir())
        return []


def _ram_tier(config: KVConfig, folder: Path) -> Tier | None:
    """In shared memory; one per disk folder and user, whichever process looks at it."""
    if not config.ram_bytes or not config.ram_path.is_dir():
        return None
    name = f"memos-kv-{os.getuid()}-{short(str(folder.resolve()))[:12]}"
    return Tier("ram", config.ram_path / name, config.ram_bytes)
