"""Sentence embedding with sentence-transformers: unit vectors of texts.

Texts longer than the model's window are embedded window by window and averaged, so that their end
counts too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable

Vectors = npt.NDArray[np.float32]
"""(num_texts, dim), rows of length 1."""

_RETRY_LOAD_SECONDS = 300.0  # without a network, one try at a hub takes over a minute


class TextEncoder(Protocol):
    """One thread at a time calls `encode`; other threads may call `count_tokens` meanwhile."""

    def encode(self, texts: list[str]) -> Vectors:
        """Embed texts: (len(texts), dim).

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Number of tokens in the model's tokenizer, without special tokens.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or it failed.
        """
        ...

    def close(self) -> None: ...


class Encoder:
    """A `TextEncoder` in this process; it loads the model at the first use."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config
        self._model: Any = None
        self._load_error: tuple[float, EmbedderUnavailable] | None = None

    def encode(self, texts: list[str]) -> Vectors:
        model = self._loaded()
        spans: list[tuple[int, int]] = []
        windows: list[str] = []
        with _failures():
            for text in texts:
                pieces = self._windows(model, text)
                spans.append((len(windows), len(windows) + len(pieces)))
                windows.extend(pieces)
            encoded = model.encode(
                windows,
                batch_size=self._config.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        means = np.stack([encoded[start:end].mean(axis=0) for start, end in spans]).astype(
            np.float32
        )
        unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return unit

    def count_tokens(self, text: str) -> int:
        tokenizer = self._loaded().tokenizer
        with _failures():
            return len(
                tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)[
                    "input_ids"
                ]
            )

    def close(self) -> None:
        """No-op: the model lives as long as the process."""

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


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Translate errors of the model, so that one text does not end the shared encoder process."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise EmbedderUnavailable(f"the embedding model failed: {error}") from error
