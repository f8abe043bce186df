"""The embedding model, in one thread of its own, batched across everybody who asks.

Questions go before bulk work: indexing is done a batch at a time, so a question waits for one batch
at most.  Texts longer than the model's window are embedded window by window and averaged, so that
their end counts too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from memos_vllm.config import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable

Vectors = npt.NDArray[np.float32]
"""(num_texts, dim), rows of length 1."""

_RETRY_LOAD_SECONDS = 300.0  # without a network, one try at a hub takes over a minute
_Job = tuple[int, int, list[str], "Future[Vectors]"]  # priority, order, texts, result
_QUERY, _BULK, _STOP = 0, 1, -1


class Embedder:
    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._order = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._model: Any = None
        self._load_error: tuple[float, EmbedderUnavailable] | None = None
        self._cache: OrderedDict[tuple[str, str], Vectors] = OrderedDict()

    @property
    def signature(self) -> str:
        """Names what vectors were made with: vectors of two signatures cannot be compared."""
        dtype = "" if self._config.dtype == "float32" else f"|{self._config.dtype}"
        return f"{self._config.model}|mean-of-windows-1{dtype}"

    async def embed_query(self, text: str, scope: str) -> Vectors:
        """(dim,) of one question.

        Args:
            scope: who asks; the cache is kept apart by it, so that nobody can find out by a
                faster answer what somebody else has asked.
        Raises:
            EmbedderUnavailable
        """
        key = (scope, text)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        vector: Vectors = (await asyncio.wrap_future(self._submit(_QUERY, [text])))[0]
        with self._lock:
            self._cache[key] = vector
            while len(self._cache) > self._config.query_cache:
                self._cache.popitem(last=False)
        return vector

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim); for bulk work in a thread of the caller's. Raises EmbedderUnavailable."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        size = self._config.batch_size
        parts = [
            self._submit(_BULK, list(texts[start : start + size]))
            for start in range(0, len(texts), size)
        ]
        return np.concatenate([part.result() for part in parts])

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the embedder's own tokenizer, without special ones."""
        tokenizer = self._loaded().tokenizer
        return len(
            tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        )

    def warm(self) -> None:
        """Load the model now rather than on first use. Raises EmbedderUnavailable."""
        self._submit(_QUERY, ["warm"]).result()

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put((_STOP, 0, [], Future()))
            self._thread.join(timeout=10)
            self._thread = None

    def _submit(self, priority: int, texts: list[str]) -> Future[Vectors]:
        future: Future[Vectors] = Future()
        with self._lock:
            self._order += 1
            self._jobs.put((priority, self._order, texts, future))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="memos-embedder", daemon=True
                )
                self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job[0] == _STOP:
                return
            batch = [job]
            if job[0] == _QUERY:
                batch += self._company(len(job[2]))
            self._finish(batch)

    def _company(self, size: int) -> list[_Job]:
        """Other questions that arrive within `batch_wait_ms`."""
        company: list[_Job] = []
        deadline = time.monotonic() + self._config.batch_wait_ms / 1000
        while size < self._config.batch_size:
            try:
                job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job[0] != _QUERY:
                self._jobs.put(job)
                break
            company.append(job)
            size += len(job[2])
        return company

    def _finish(self, batch: list[_Job]) -> None:
        texts = [text for job in batch for text in job[2]]
        try:
            vectors = self._encode(texts)
        except EmbedderUnavailable as error:
            for job in batch:
                job[3].set_exception(error)
            return
        start = 0
        for job in batch:
            if not job[3].cancelled():
                job[3].set_result(vectors[start : start + len(job[2])])
            start += len(job[2])

    def _encode(self, texts: list[str]) -> Vectors:
        model = self._loaded()
        spans: list[tuple[int, int]] = []
        windows: list[str] = []
        for text in texts:
            pieces = self._windows(model, text)
            spans.append((len(windows), len(windows) + len(pieces)))
            windows.extend(pieces)
        try:
            encoded = model.encode(
                windows,
                batch_size=self._config.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise EmbedderUnavailable(f"the embedding model failed: {error}") from error
        means = np.stack([encoded[start:end].mean(axis=0) for start, end in spans]).astype(
            np.float32
        )
        unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return unit

    def _windows(self, model: Any, text: str) -> list[str]:
        limit = (model.max_seq_length or 512) - 2  # the two special tokens around a text
        if len(text) <= limit:
            return [text]
        offsets = model.tokenizer(
            text,
            add_special_tokens=False,
            truncation=False,
            return_offsets_mapping=True,
            verbose=False,
        )["offset_mapping"]
        if len(offsets) <= limit:
            return [text]
        cuts = [offsets[start : start + limit] for start in range(0, len(offsets), limit)]
        return [text[cut[0][0] : cut[-1][1]] for cut in cuts]

    def _loaded(self) -> Any:
        if self._model is not None:
            return self._model
        if self._load_error and time.monotonic() - self._load_error[0] < _RETRY_LOAD_SECONDS:
            raise self._load_error[1]
        try:
            import torch
            from sentence_transformers import SentenceTransformer

            torch.set_num_threads(self._config.threads)
            dtype = {"dtype": getattr(torch, self._config.dtype)}
            self._model = SentenceTransformer(
                self._config.model, device=self._config.device, model_kwargs=dtype
            )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            cause = str(error).strip().splitlines()[0]
            unavailable = EmbedderUnavailable(
                f"the embedding model {self._config.model!r} cannot be loaded: {cause}"
            )
            self._load_error = (time.monotonic(), unavailable)
            raise unavailable from error
        return self._model
