"""Text embedding, batched across concurrent callers.

Questions have priority over bulk work: indexing is split into batches, so a question waits for one
batch at most.  One thread per encoder feeds it: `embedder.processes` encoders in processes of their
own, or one in this process.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from cachetools import LRUCache

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.background import UNRELATED, background_of
from memos_vllm.plaintext.embed.encoder import Encoder, TextEncoder, folder_of
from memos_vllm.plaintext.embed.layout import UnsupportedLayout, prefixes_of
from memos_vllm.plaintext.embed.model import SignedVector, Vectors
from memos_vllm.plaintext.embed.process import EncoderProcess

_Job = tuple[int, int, list[str], "Future[Vectors]"]  # priority, order, texts, result
_STOP_NOW, _QUERY, _BULK, _STOP = -1, 0, 1, 2
_numbers = itertools.count()


class _Line:
    """Queue, threads and encoders of one configuration."""

    def __init__(self, config: EmbedderConfig) -> None:
        self.config = config
        self.signature = signature_by(config)
        self.closed = False
        """Whether nothing may be queued any more."""
        self.probe: Future[Vectors] | None = None
        """Vectors of unrelated texts; None: not asked for yet."""
        self.jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self.threads: list[threading.Thread] = []
        self.encoders: list[TextEncoder] = [
            EncoderProcess(config) for _ in range(config.processes)
        ] or [Encoder(config)]
        self.cache: LRUCache[tuple[str, str], Vectors] = LRUCache(config.query_cache)


class Embedder:
    def __init__(self, config: EmbedderConfig) -> None:
        self._lock = threading.Lock()
        self._line = _Line(config)

    @property
    def config(self) -> EmbedderConfig:
        return self._line.config

    @property
    def signature(self) -> str:
        """Model and version of the stored vectors; different signatures cannot be compared.

        The questions' prefix is no part of it: it changes no stored vector.
        """
        return self._line.signature

    async def embed_query(self, text: str, scope: str) -> Vectors:
        """(dim,) of one question, cached; a `SignedVector`.

        Args:
            scope: tenant and person; cache entries are separate for each, so that a fast answer does
                not reveal the questions of another person.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        key = (scope, text)
        with self._lock:
            line = self._line
            if (cached := line.cache.get(key)) is not None:
                return cached
            future = self._submitted(line, _QUERY, [text])
        rows = await asyncio.wrap_future(future)
        # Others wait for the probe, too: a cancelled request must not cancel it.
        probe = await asyncio.shield(asyncio.wrap_future(self._probe(line)))
        vector = SignedVector.of(rows[0], line.signature, background_of(rows[0], probe))
        if line.config.query_cache:
            with self._lock:
                line.cache[key] = vector
        return vector

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim), for bulk work; blocks the calling thread.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        with self._lock:
            line = self._line
            size = line.config.batch_size
            parts = [
                self._submitted(line, _BULK, list(texts[start : start + size]))
                for start in range(0, len(texts), size)
            ]
        return np.concatenate([part.result() for part in parts])

    def count_tokens(self, text: str) -> int:
        """Number of tokens in the embedder's tokenizer, without special tokens."""
        return self._line.encoders[0].count_tokens(text)

    def estimate_tokens(self, text: str) -> int:
        """`count_tokens`; where the model cannot be loaded, four characters a token."""
        try:
            return self.count_tokens(text)
        except EmbedderUnavailable:
            return len(text) // 4 + 1

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        """Drop cached questions of persons.

        Args:
            is_gone: of a tenant and a person.
        """
        with self._lock:
            for key in [key for key in self._line.cache if is_gone(*_parts(key[0]))]:
                self._line.cache.pop(key, None)

    def warm(self) -> None:
        """Load the model now rather than on first use.

        Raises:
            EmbedderUnavailable: it cannot be loaded.
        """
        self._probe(self._line).result()

    def use(self, config: EmbedderConfig) -> None:
        """Embed with another configuration from now on; what was asked before is still answered."""
        self.take(Embedder(config))

    def take(self, other: Embedder) -> None:
        """Embed with the model of another embedder, which may be loaded; use the other no more."""
        with self._lock:
            old, self._line = self._line, other._line
            old.closed = True
        threading.Thread(target=_close, args=(old, True), daemon=True).start()

    def close(self) -> None:
        _close(self._line)

    def _probe(self, line: _Line) -> Future[Vectors]:
        """Vectors of `UNRELATED`, once for each line."""
        with self._lock:
            failed = line.probe is not None and line.probe.done() and line.probe.exception()
            if line.probe is None or failed:
                line.probe = self._submitted(line, _QUERY, list(UNRELATED))
            return line.probe

    def _submitted(self, line: _Line, priority: int, texts: list[str]) -> Future[Vectors]:
        """Queue texts; the caller holds the lock."""
        future: Future[Vectors] = Future()
        if line.closed:
            future.set_exception(EmbedderUnavailable("the embedder has just changed"))
            return future
        line.jobs.put((priority, next(_numbers), texts, future))
        if not line.threads:
            line.threads = [self._started(line, encoder) for encoder in line.encoders]
        return future

    def _started(self, line: _Line, encoder: TextEncoder) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, args=(line, encoder), name="memos-embedder", daemon=True
        )
        thread.start()
        return thread

    def _run(self, line: _Line, encoder: TextEncoder) -> None:
        while True:
            job = line.jobs.get()
            if job[0] in (_STOP_NOW, _STOP):
                return
            batch = [job]
            if job[0] == _QUERY:
                batch += self._concurrent(line, len(job[2]))
            self._finish(encoder, batch)

    def _concurrent(self, line: _Line, size: int) -> list[_Job]:
        """Other questions that arrive within `batch_wait_ms`."""
        jobs: list[_Job] = []
        deadline = time.monotonic() + line.config.batch_wait_ms / 1000
        while size < line.config.batch_size:
            try:
                job = line.jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job[0] != _QUERY:
                line.jobs.put(job)
                break
            jobs.append(job)
            size += len(job[2])
        return jobs

    def _finish(self, encoder: TextEncoder, batch: list[_Job]) -> None:
        # Drops cancelled jobs; the rest can no longer be cancelled.
        batch = [job for job in batch if job[3].set_running_or_notify_cancel()]
        if not batch:
            return
        texts = [text for job in batch for text in job[2]]
        try:
            vectors = self._encode(encoder, texts, batch[0][0] == _QUERY)
        except EmbedderUnavailable as error:
            for job in batch:
                job[3].set_exception(error)
            return
        start = 0
        for job in batch:
            job[3].set_result(vectors[start : start + len(job[2])])
            start += len(job[2])

    def _encode(self, encoder: TextEncoder, texts: list[str], query: bool) -> Vectors:
        return encoder.encode(texts, query)


def _parts(scope: str) -> tuple[str, str]:
    """Tenant and person of a scope of `embed_query`."""
    tenant, _, person = scope.partition("\x00")
    return tenant, person


def signature_by(config: EmbedderConfig) -> str:
    """Signature of the vectors that a configuration makes."""
    try:
        passage = prefixes_of(config, folder_of(config)).passage
    except (OSError, UnsupportedLayout):  # loading the model reports it
        passage = prefixes_of(config, None).passage
    parts = [config.model, "mean-of-windows-1"]
    parts += [config.dtype] if config.dtype != "float32" else []
    parts += [config.onnx_file] if config.onnx_file is not None else []
    parts += [f"passage={passage!r}"] if passage else []
    return "|".join(parts)


def _close(line: _Line, finish: bool = False) -> None:
    """End the threads and processes of a line.

    Args:
        finish: do what is queued first.
    """
    for _ in line.threads:
        line.jobs.put((_STOP if finish else _STOP_NOW, next(_numbers), [], Future()))
    if finish:
        for thread in line.threads:
            thread.join()
    for encoder in line.encoders:
        encoder.close()
    for thread in line.threads:
        thread.join(timeout=10)
