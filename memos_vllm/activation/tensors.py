"""Write segments' tensors into a store and read them out of it: the engine worker's side."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping

import torch

from memos_vllm.activation import files
from memos_vllm.activation.files import SegmentReader, Shape
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tier import Tier
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_HITS_FOR_MEMORY = 2


class TensorStore:
    def __init__(self, segments: SegmentStore) -> None:
        """
        Args:
            segments: the store whose files are written and read.
        """
        self.segments = segments

    @contextlib.contextmanager
    def open(self, name: SegmentName) -> Iterator[tuple[SegmentReader, str]]:
        """A segment and the name of the tier that it is read from.

        Raises:
            DamagedPayload: it is damaged; do not use layers that were read from it. Raise it inside
                the block, too, for a file that does not fit.  The file is wiped, so that a whole one
                can take its place.
            OSError: the file does not exist or cannot be read.
        """
        text, ram, disk = str(name), self.segments.ram, self.segments.disk
        tier = ram if ram is not None and ram.has(text) else disk
        try:
            with SegmentReader(tier.path(text), past_cache=tier is disk) as reader:
                if reader.metadata.get("key") != name.key:
                    raise DamagedPayload("the file holds another segment than its name says")
                yield reader, tier.name
        except DamagedPayload:
            tier.wipe(text)
            raise
        tier.used(text)

    def read_ahead(self, text: str) -> None:
        """Have the system read a segment's file from disk into the page cache.

        Args:
            text: `str(SegmentName)`.
        """
        ram, disk = self.segments.ram, self.segments.disk
        if ram is not None and ram.has(text):
            return
        with contextlib.suppress(OSError), disk.path(text).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def warm(self, text: str) -> bool:
        """Copy a segment into shared memory if it fits without eviction; False: it does not.

        Raises OSError.

        Args:
            text: `str(SegmentName)`.
        """
        ram = self.segments.ram
        if ram is None:
            return False
        if ram.has(text):
            return True
        try:
            size = self.segments.disk.path(text).stat().st_size
            if not ram.has_room(size):
                return False
            self._copy_up(text, ram)
        except FileNotFoundError:
            pass  # evicted or forgotten
        return True

    def warmest(self, rank: str) -> Iterator[str]:
        """Names (`str`) of this worker's segments on disk, last used first."""
        found = [(status.st_atime, name) for name, status in self.segments.disk.names()]
        for _, name in sorted(found, reverse=True):
            with contextlib.suppress(ValueError):  # a file that another program made
                if SegmentName.parse(name).rank == rank:
                    yield name

    def promote(self, name: SegmentName) -> None:
        """Copy a segment that is used again into shared memory, or else into the page cache."""
        text, ram = str(name), self.segments.ram
        if self.segments.disk.hits(text) < _HITS_FOR_MEMORY:
            return
        if ram is None:
            self.read_ahead(text)
        elif not ram.has(text):
            try:
                self._copy_up(text, ram)
            except OSError as error:
                log.warning("no KV is copied into shared memory: %s", error)

    def add(
        self,
        name: SegmentName,
        shape: Shape,
        layers: Iterable[torch.Tensor],
        cubes: Iterable[str],
        metadata: Mapping[str, str],
        generation: int = 0,
    ) -> bool:
        """Save a segment, durably; False when it was forgotten meanwhile, or does not fit.

        Args:
            layers: as for `files.write`.
            cubes: `id@sequence` of every cube in the segment's prefix.
            metadata: with `digest`, of the segment's own tokens.
            generation: of its scope when it was planned.

        Raises:
            OSError: the disk is full or broken; no file is left behind.
        """
        text, cubes, store = str(name), tuple(cubes), self.segments
        about = {**metadata, "key": name.key, "cubes": " ".join(cubes)}
        store.make_folders()
        if self._is_forgotten(name, cubes, generation):
            return False
        if not store.disk.make_room(files.file_bytes(shape, about), store.pinned):
            return False
        self._mark(name, cubes)
        store.note_context(metadata["digest"], name)
        store.disk.added(text, files.write(store.disk.path(text), shape, layers, about))
        if store.ram is not None:
            with contextlib.suppress(OSError):
                self._copy(text, store.disk, store.ram)
        self._mark(name, cubes)  # forgetting an older version meanwhile removed the marks
        if self._is_forgotten(name, cubes, generation):
            store.wipe_segment(name)  # the process that forgot it may not have seen the file
            return False
        return True

    def _is_forgotten(self, name: SegmentName, cubes: Iterable[str], generation: int) -> bool:
        gone = self.segments.gone
        return gone.any_buried(cubes) or gone.generation(name.scope) != generation

    def _mark(self, name: SegmentName, cubes: Iterable[str]) -> None:
        for cube in cubes:
            mark = self.segments.mark(cube, name)
            mark.parent.mkdir(exist_ok=True, mode=0o700)
            mark.touch()

    def _copy_up(self, text: str, ram: Tier) -> None:
        """Copy from disk into shared memory, unless it is forgotten meanwhile. Raises OSError."""
        disk = self.segments.disk
        try:
            self._copy(text, disk, ram)
        finally:
            if not disk.has(text):
                ram.wipe(text)

    def _copy(self, text: str, source: Tier, target: Tier) -> None:
        size = source.path(text).stat().st_size
        if target.make_room(size, self.segments.pinned):
            target.added(text, files.copy(source.path(text), target.path(text)))
