"""`rerank`: a model reads the question with each of the best items and orders them anew.

It runs the model on every pair before the first token, so it is off by default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memos_vllm.errors import ConfigError, Unavailable
from memos_vllm.steps.state import Recall, Step

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class Reranker(Protocol):
    def scores(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """One for each text; higher is better. Called from a thread.

        Raises:
            Unavailable: the model failed.
        """
        ...


class CrossEncoder:
    """A cross-encoder of sentence-transformers."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """
        Args:
            model: name or folder.

        Raises:
            ConfigError: it cannot be loaded.
        """
        from sentence_transformers import CrossEncoder as Model

        try:
            self._model: Any = Model(model, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the reranker {model!r} cannot be loaded: {error}") from error

    def scores(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """Implements `Reranker`."""
        pairs = [(question, text) for text in texts]
        try:
            found: list[float] = self._model.predict(pairs, show_progress_bar=False).tolist()
        except (RuntimeError, IndexError) as error:  # out of memory, or outside of the vocabulary
            raise Unavailable(f"the reranker failed: {error}") from error
        return found


def step(system: MemorySystem) -> Step[Recall]:
    """The step with the configured cross-encoder.

    Raises:
        ConfigError: no model is named, or it cannot be loaded.
    """
    config = system.config.retrieval
    if config.reranker is None:
        raise ConfigError("the step `rerank` needs a model: set `retrieval.reranker`")
    return of(CrossEncoder(config.reranker, config.reranker_device), config.rerank_depth)


def of(reranker: Reranker, depth: int) -> Step[Recall]:
    """The step with any reranker.

    Args:
        depth: items that it reads; those behind keep their order.
    """

    def rerank(recall: Recall) -> Recall:
        count = len(recall.found)
        pool = [*recall.found, *recall.further]
        read, rest = pool[:depth], pool[depth:]
        if not read:
            return recall
        scores = reranker.scores(recall.query.text, [each.recalled.item.text for each in read])
        order = sorted(range(len(read)), key=lambda position: -scores[position])
        pool = [
            dataclasses.replace(
                read[position],
                score=round(float(scores[position]), 4),
                signals={**read[position].signals, "before_rerank": read[position].score},
            )
            for position in order
        ] + rest
        return dataclasses.replace(recall, found=pool[:count], further=pool[count:])

    return rerank
