"""Segments' tensors into the store and out of it: the engine worker's side of it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping

import torch

from memos_vllm.activation import files
from memos_vllm.activation.files import SegmentReader, Shape
from memos_vllm.activation.store import SegmentName, SegmentStore
from memos_vllm.activation.tier import Tier
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)
_HITS_FOR_MEMORY = 2


class TensorStore(SegmentStore):
    @contextlib.contextmanager
    def open(self, name: SegmentName) -> Iterator[tuple[SegmentReader, str]]:
        """A segment and the tier it is read from.

        Raises:
            DamagedPayload: it is damaged; what was copied out of it must not be used. Raise it
                inside the block, too, for a file that does not fit.  The file is wiped, so that a
                whole one can take its place.
            OSError: it is not there or cannot be read.
        """
        text = str(name)
        tier = self.ram if self.ram is not None and self.ram.has(text) else self.disk
        try:
            with SegmentReader(tier.path(text), past_cache=tier is self.disk) as reader:
                if reader.metadata.get("key") != name.key:
                    raise DamagedPayload("the file holds another segment than its name says")
                yield reader, tier.name
        except DamagedPayload:
            tier.wipe(text)
            raise
        tier.used(text)

    def read_ahead(self, text: str) -> None:
        """Have the system read a segment's file from disk into its own memory."""
        if self.ram is not None and self.ram.has(text):
            return
        with contextlib.suppress(OSError), self.disk.path(text).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def warm(self, text: str) -> bool:
        """Copy a segment into shared memory while there is room; False: there is none.

        Raises OSError.
        """
        if self.ram is None:
            return False
        if self.ram.has(text):
            return True
        try:
            size = self.disk.path(text).stat().st_size
            if not self.ram.has_room(size):
                return False
            self._up(text)
        except FileNotFoundError:
            pass  # evicted or forgotten
        return True

    def warmest(self, rank: str) -> Iterator[str]:
        """Names of what lies on disk for this worker, last used first."""
        found = [(status.st_atime, name) for name, status in self.disk.names()]
        for _, name in sorted(found, reverse=True):
            if name.partition(".")[2] == rank:
                yield name

    def promote(self, name: SegmentName) -> None:
        """Copy a segment that is used again into shared memory; without any, into the system's."""
        text = str(name)
        if self.disk.hits(text) < _HITS_FOR_MEMORY:
            return
        if self.ram is None:
            self.read_ahead(text)
        if self.ram is None or self.ram.has(text):
            return
        try:
            self._up(text)
        except OSError as error:
            log.warning("shared memory takes no more KV: %s", error)

    def add(
        self,
        name: SegmentName,
        shape: Shape,
        layers: Iterable[torch.Tensor],
        cubes: Iterable[str],
        metadata: Mapping[str, str],
        generation: int = 0,
    ) -> bool:
        """Keep a segment, durably; False when it was forgotten meanwhile, or does not fit.

        Args:
            layers: as for `files.write`.
            metadata: with `digest`, of the segment's own tokens.
            generation: of its scope when it was planned.
        Raises:
            OSError: the disk is full or broken; nothing is left behind.
        """
        text, cubes = str(name), tuple(cubes)
        about = {**metadata, "key": name.key, "cubes": " ".join(cubes)}
        self.make_folders()
        if self._forgotten(name, cubes, generation):
            return False
        if not self.disk.make_room(files.file_bytes(shape, about), self.pinned):
            return False
        self._mark(name, cubes)
        self.note_context(metadata["digest"], name)
        self.disk.added(text, files.write(self.disk.path(text), shape, layers, about))
        if self.ram is not None:
            with contextlib.suppress(OSError):
                self._copy(text, self.disk, self.ram)
        self._mark(name, cubes)  # who forgot an older version meanwhile took the marks away
        if self._forgotten(name, cubes, generation):
            self.wipe_segment(text)  # whoever did may not have seen the file yet
            return False
        return True

    def _forgotten(self, name: SegmentName, cubes: Iterable[str], generation: int) -> bool:
        return self.gone.any_buried(cubes) or self.gone.generation(name.scope) != generation

    def _mark(self, name: SegmentName, cubes: Iterable[str]) -> None:
        for cube in cubes:
            mark = self.mark(cube, name)
            mark.parent.mkdir(exist_ok=True, mode=0o700)
            mark.touch()

    def _up(self, text: str) -> None:
        """From disk into shared memory, unless it is forgotten meanwhile. Raises OSError."""
        assert self.ram is not None
        try:
            self._copy(text, self.disk, self.ram)
        finally:
            if not self.disk.has(text):
                self.ram.wipe(text)

    def _copy(self, text: str, source: Tier, target: Tier) -> None:
        size = source.path(text).stat().st_size
        if target.make_room(size, self.pinned):
            target.added(text, files.copy(source.path(text), target.path(text)))
