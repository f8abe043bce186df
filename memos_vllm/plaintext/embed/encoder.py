"""Sentence embedding: unit vectors of texts.

Texts longer than the model's window are embedded window by window and averaged, so that their end
counts too.  Questions and passages get the prefixes that the model was trained with.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.layout import (
    GRAPHS,
    HUB_FILES,
    Prefixes,
    UnsupportedLayout,
    graph_in,
    prefixes_of,
    wants_graph,
)
from memos_vllm.plaintext.embed.model import SentenceModel, Vectors

__all__ = ["Encoder", "TextEncoder", "Vectors", "folder_of"]

_RETRY_LOAD_SECONDS = 300.0  # without a network, one try at a hub takes over a minute


class TextEncoder(Protocol):
    """One thread at a time calls `encode`; other threads may call `count_tokens` meanwhile."""

    def encode(self, texts: list[str], query: bool = False) -> Vectors:
        """Embed texts: (len(texts), dim).

        Args:
            query: the texts are questions, not passages.

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
        self._model: SentenceModel | None = None
        self._prefixes = Prefixes()
        self._load_error: tuple[float, EmbedderUnavailable] | None = None

    def encode(self, texts: list[str], query: bool = False) -> Vectors:
        model = self._loaded()
        prefix = self._prefixes.query if query else self._prefixes.passage
        spans: list[tuple[int, int]] = []
        windows: list[str] = []
        with _failures():
            limit = model.max_tokens - (model.count(prefix) if prefix else 0)
            for text in texts:
                pieces = _windows(model, text, max(1, limit))
                spans.append((len(windows), len(windows) + len(pieces)))
                windows.extend(prefix + piece for piece in pieces)
            encoded = model.encode(windows)
        means = np.stack([encoded[start:end].mean(axis=0) for start, end in spans]).astype(
            np.float32
        )
        unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return unit

    def count_tokens(self, text: str) -> int:
        model = self._loaded()
        with _failures():
            return model.count(text)

    def close(self) -> None:
        """No-op: the model lives as long as the process."""

    def _loaded(self) -> SentenceModel:
        if self._model is not None:
            return self._model
        if self._load_error and time.monotonic() - self._load_error[0] < _RETRY_LOAD_SECONDS:
            raise self._load_error[1]
        try:
            with _failures(f"the embedding model {self._config.model!r} cannot be loaded"):
                folder = folder_of(self._config, download=True)
                self._prefixes = prefixes_of(self._config, folder)
                self._model = _load(self._config, folder)
        except EmbedderUnavailable as error:
            self._load_error = (time.monotonic(), error)
            raise
        return self._model


def folder_of(config: EmbedderConfig, download: bool = False) -> Path | None:
    """Folder of the model's files: itself, or in the hub's cache; None: not on this machine.

    Args:
        download: fetch the small files and the ONNX graph of a model on a hub, if they are missing.

    Raises:
        OSError: the hub does not answer, and the model was never fetched.
    """
    if (folder := Path(config.model).expanduser()).is_dir():
        return folder
    if config.model.count("/") != 1:
        return (
            None  # a short name, which sentence-transformers completes; or a folder that is missing
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    graphs: tuple[str, ...] = GRAPHS if config.onnx_file is None else (config.onnx_file,)
    if not wants_graph(config):
        graphs = ()
    files = [*HUB_FILES, *(f"{graph}{end}" for graph in graphs for end in ("", "_data", ".data"))]
    try:
        return Path(
            snapshot_download(config.model, allow_patterns=files, local_files_only=not download)
        )
    except HFValidationError:
        return None
    except LocalEntryNotFoundError:
        if download:
            raise
        return None


def _load(config: EmbedderConfig, folder: Path | None) -> SentenceModel:
    graph = graph_in(folder, config) if folder is not None else None
    if folder is not None and graph is not None:
        from memos_vllm.plaintext.embed.onnx_model import OnnxModel

        return OnnxModel(config, folder, graph)
    if config.runtime == "onnx":
        raise UnsupportedLayout("no such folder, and no such model on a hub")
    from memos_vllm.plaintext.embed.torch_model import TorchModel

    return TorchModel(config)


def _windows(model: SentenceModel, text: str, limit: int) -> list[str]:
    """Cut a text into pieces of at most `limit` tokens."""
    if len(text.encode("utf-8", "surrogatepass")) <= limit:  # a token is at least one byte
        return [text]
    offsets = model.offsets(text)
    if len(offsets) <= limit:
        return [text]
    cuts = [offsets[start : start + limit] for start in range(0, len(offsets), limit)]
    return [text[cut[0][0] : cut[-1][1]] for cut in cuts]


@contextlib.contextmanager
def _failures(what: str = "the embedding model failed") -> Iterator[None]:
    """Translate errors of the model, so that one text does not end the shared encoder process."""
    try:
        yield
    except Exception as error:  # tokenizers and ONNX Runtime raise bare exceptions
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderUnavailable(f"{what}: {cause}") from error
