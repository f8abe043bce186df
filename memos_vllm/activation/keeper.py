"""Segments' tensors into the store and out of it: the engine worker's side of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping

import torch

from memos_vllm.activation import files
from memos_vllm.activation.files import Mapped, SegmentData
from memos_vllm.activation.store import SegmentName, SegmentStore
from memos_vllm.errors import DamagedPayload

log = logging.getLogger(__name__)


class SegmentKeeper(SegmentStore):
    @contextlib.contextmanager
    def open(self, name: SegmentName) -> Iterator[tuple[SegmentData, str]]:
        """A segment's data and the tier it came from.

        Raises:
            DamagedPayload: it is damaged, or was wiped while it was used: what was copied out of
                it must not be used. Raise it inside the block for a file that does not fit.  The
                file is wiped, so that a whole one can take its place.
            OSError: it is not there or cannot be read.
        """
        text = str(name)
        if self.ram is not None and self.ram.has(text):
            try:
                mapped = Mapped(self.ram.path(text))
            except (OSError, DamagedPayload):
                self.ram.wipe(text)
            else:
                with mapped, self._wiping_damage(text):
                    self._check(mapped.data, name)
                    yield mapped.data, self.ram.name
                    if not mapped.alive():
                        raise DamagedPayload("the segment was wiped while it was read")
                self.ram.used(text)
                return
        with self._wiping_damage(text):
            data = files.read(self.disk.path(text))
            self._check(data, name)
            yield data, self.disk.name
            if not self.disk.has(text):
                raise DamagedPayload("the segment was wiped while it was read")
        self.disk.used(text)
        if self.disk.hits(text) > 1:
            self._promote(text, data)

    def add(
        self,
        name: SegmentName,
        k: torch.Tensor,
        v: torch.Tensor,
        cubes: Iterable[str],
        metadata: Mapping[str, str],
    ) -> bool:
        """Keep a segment, durably; False when a cube of it is gone or it does not fit.

        Raises:
            OSError: the disk is full or broken; nothing is left behind.
        """
        text, cubes = str(name), tuple(cubes)
        size = 2 * k.numel() * k.element_size()
        if self.any_gone(cubes) or not self.disk.make_room(size, self.is_pinned):
            return False
        for cube in cubes:
            mark = self.mark(cube, name)
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        written = {**metadata, "key": name.key, "cubes": " ".join(cubes)}
        self.disk.added(text, files.write(self.disk.path(text), k, v, written))
        if self.ram is not None and self.ram.make_room(size, self.is_pinned):
            try:
                self.ram.added(text, files.write(self.ram.path(text), k, v, written))
            except OSError as error:
                log.warning("shared memory takes no more KV: %s", error)
        if self.any_gone(cubes):  # deleted meanwhile: whoever did may not have seen the file yet
            self.wipe_segment(text)
            return False
        return True

    @contextlib.contextmanager
    def _wiping_damage(self, text: str) -> Iterator[None]:
        try:
            yield
        except DamagedPayload:
            self.wipe_segment(text)
            raise

    def _promote(self, text: str, data: SegmentData) -> None:
        if self.ram is None or not self.ram.make_room(data.bytes, self.is_pinned):
            return
        metadata = {key: value for key, value in data.metadata.items() if key != "checksum"}
        with contextlib.suppress(OSError):
            self.ram.added(text, files.write(self.ram.path(text), data.k, data.v, metadata))
        if not self.disk.has(text):
            self.ram.wipe(text)

    @staticmethod
    def _check(data: SegmentData, name: SegmentName) -> None:
        if data.metadata.get("key") != name.key:
            raise DamagedPayload("the file holds another segment than its name says")
