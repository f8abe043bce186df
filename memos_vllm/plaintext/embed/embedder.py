"""Text embedding, batched across concurrent callers.

Questions have priority over bulk work: indexing is split into batches, so a question waits for one
batch at most.  One thread per encoder feeds it: `embedder.processes` encoders in processes of their
own, or one in this process.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from cachetools import LRUCache

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.encoder import Encoder, TextEncoder, folder_of
from memos_vllm.plaintext.embed.layout import UnsupportedLayout, prefixes_of
from memos_vllm.plaintext.embed.model import Vectors
from memos_vllm.plaintext.embed.process import EncoderProcess

_Job = tuple[int, int, list[str], "Future[Vectors]"]  # priority, order, texts, result
_QUERY, _BULK, _STOP = 0, 1, -1


class Embedder:
    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._order = 0
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._encoders: list[TextEncoder] = [
            EncoderProcess(config) for _ in range(config.processes)
        ] or [Encoder(config)]
        self._cache: LRUCache[tuple[str, str], Vectors] = LRUCache(config.query_cache)

    @functools.cached_property
    def signature(self) -> str:
        """Model and version of the stored vectors; different signatures cannot be compared.

        The questions' prefix is no part of it: it changes no stored vector.
        """
        config = self._config
        try:
            passage = prefixes_of(config, folder_of(config)).passage
        except (OSError, UnsupportedLayout):  # loading the model reports it
            passage = prefixes_of(config, None).passage
        parts = [config.model, "mean-of-windows-1"]
        parts += [config.dtype] if config.dtype != "float32" else []
        parts += [config.onnx_file] if config.onnx_file is not None else []
        parts += [f"passage={passage!r}"] if passage else []
        return "|".join(parts)

    async def embed_query(self, text: str, scope: str) -> Vectors:
        """(dim,) of one question, cached.

        Args:
            scope: tenant and person; cache entries are separate for each, so that a fast answer does
                not reveal the questions of another person.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        key = (scope, text)
        with self._lock:
            if (cached := self._cache.get(key)) is not None:
                return cached
        vector: Vectors = (await asyncio.wrap_future(self._submit(_QUERY, [text])))[0]
        if self._config.query_cache:
            with self._lock:
                self._cache[key] = vector
        return vector

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim), for bulk work; blocks the calling thread.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        size = self._config.batch_size
        parts = [
            self._submit(_BULK, list(texts[start : start + size]))
            for start in range(0, len(texts), size)
        ]
        return np.concatenate([part.result() for part in parts])

    def count_tokens(self, text: str) -> int:
        """Number of tokens in the embedder's tokenizer, without special tokens."""
        return self._encoders[0].count_tokens(text)

    def warm(self) -> None:
        """Load the model now rather than on first use.

        Raises:
            EmbedderUnavailable: it cannot be loaded.
        """
        self._submit(_QUERY, ["warm"]).result()

    def close(self) -> None:
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put((_STOP, 0, [], Future()))
        for encoder in self._encoders:
            encoder.close()
        for thread in threads:
            thread.join(timeout=10)

    def _submit(self, priority: int, texts: list[str]) -> Future[Vectors]:
        future: Future[Vectors] = Future()
        with self._lock:
            self._order += 1
            self._jobs.put((priority, self._order, texts, future))
            if not self._threads:
                self._threads = [self._started(encoder) for encoder in self._encoders]
        return future

    def _started(self, encoder: TextEncoder) -> threading.Thread:
        thread = threading.Thread(
            target=self._run, args=(encoder,), name="memos-embedder", daemon=True
        )
        thread.start()
        return thread

    def _run(self, encoder: TextEncoder) -> None:
        while True:
            job = self._jobs.get()
            if job[0] == _STOP:
                return
            batch = [job]
            if job[0] == _QUERY:
                batch += self._concurrent(len(job[2]))
            self._finish(encoder, batch)

    def _concurrent(self, size: int) -> list[_Job]:
        """Other questions that arrive within `batch_wait_ms`."""
        jobs: list[_Job] = []
        deadline = time.monotonic() + self._config.batch_wait_ms / 1000
        while size < self._config.batch_size:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job[0] != _QUERY:
                self._jobs.put(job)
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
