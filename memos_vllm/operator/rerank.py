"""Rerankers: how well each text answers a question, by a model that reads both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from memos_vllm.errors import ConfigError


class Reranker(Protocol):
    def scores(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """One for each text; higher is better. Called from a thread."""
        ...


class CrossEncoder:
    """A cross-encoder of sentence-transformers."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Args: model: name or folder. Raises ConfigError: it cannot be loaded."""
        from sentence_transformers import CrossEncoder as Model

        try:
            self._model: Any = Model(model, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the reranker {model!r} cannot be loaded: {error}") from error

    def scores(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """Implements `Reranker`."""
        found: list[float] = self._model.predict(
            [(question, text) for text in texts], show_progress_bar=False
        ).tolist()
        return found
