"""Classify sentences: does one state a preference, a constraint, an instruction or a lasting fact?

Logistic regression over the embedder's vector, hashed n-grams and the shape of the sentence.  It reads
no grammar, so it works where the training sentences reach, in every language; precision goes before
recall, as what it keeps stands in every prompt.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from memos_vllm.cube.model import Standing
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.statements.features import grams, has_no_spaces, shape, words
from memos_vllm.plaintext.statements.weights import KINDS, PROBES, Weights, weights_for
from memos_vllm.prompt.sentences import sentences

log = logging.getLogger(__name__)
LONGEST, SHORTEST = 300, 4
"""Characters of a sentence that is read."""
MOST_SENTENCES = 24
"""A longer text is pasted rather than said."""
_RETRY_SECONDS = 60.0
_FENCE = re.compile(r"^[^\S\n]*+(?:```|~~~)")
_INTRODUCES = (":", "\uff1a")


class SentenceEncoder(Protocol):
    """The part of the embedder that reading needs."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dim). Raises EmbedderUnavailable."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Statement:
    text: str
    probability: float
    """Of its being a lasting statement of the person."""
    standing: Standing
    """The likeliest, if it is one."""
    is_kept: bool
    """The probability reaches the threshold."""


class StatementReader:
    def __init__(self, encoder: SentenceEncoder, folders: Sequence[Path] = ()) -> None:
        """Reader that loads its weights at the first use.

        Args:
            folders: with weights for embedders that none are shipped for.
        """
        self._encoder = encoder
        self._folders = list(folders)
        self._lock = threading.Lock()
        self._weights: Weights | None = None
        self._asked_at = -_RETRY_SECONDS

    def read(self, texts: Sequence[str]) -> list[Statement]:
        """Each sentence with its probabilities, in order."""
        return self.read_vectors(texts, self.vectors(texts))

    def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """(len(texts), dim); None: the weights use none, or the embedder does not answer."""
        if not texts or not self.weights.uses_vectors:
            return None
        try:
            return self._encoder.embed(texts)
        except EmbedderUnavailable as error:
            log.warning("sentences are read by their letters alone: %s", error)
            return None

    def read_vectors(self, texts: Sequence[str], vectors: Vectors | None) -> list[Statement]:
        """As `read`, for sentences whose vectors are known: (len(texts), dim)."""
        if not texts:
            return []
        weights = self.weights
        if weights.uses_vectors and vectors is None:
            weights = weights_for(None, ())
        logits = np.stack(
            [weights.grams @ grams(text) + weights.shape @ shape(text) for text in texts]
        )
        logits = logits + weights.bias
        if vectors is not None and weights.uses_vectors:
            logits = logits + vectors @ weights.vectors.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        return [
            Statement(
                text,
                probability=float(1 - share[0]),
                standing=Standing(KINDS[1 + int(share[1:].argmax())]),
                is_kept=float(1 - share[0]) >= weights.threshold,
            )
            for text, share in zip(texts, shares, strict=True)
        ]

    @property
    def weights(self) -> Weights:
        """Those for the embedder; without its answer, those that use no vectors, for a while."""
        with self._lock:
            is_final = self._weights is not None and self._weights.uses_vectors
            if self._weights is not None and (
                is_final or time.monotonic() - self._asked_at < _RETRY_SECONDS
            ):
                return self._weights
            self._asked_at = time.monotonic()
            try:
                probes = self._encoder.embed(PROBES)
            except EmbedderUnavailable as error:
                log.warning("sentences are read by their letters alone: %s", error)
                probes = None
            self._weights = weights_for(probes, self._folders)
            return self._weights


def own_sentences(text: str) -> list[str]:
    """Sentences that the writer says: without code, quoted lines, and what a colon at a line's end introduces.

    A long text counts as pasted and has none.
    """
    lines: list[str] = []
    is_code = False
    for line in text.splitlines():
        if _FENCE.match(line) is not None:
            is_code = not is_code
            continue
        if is_code:
            continue
        if not line.lstrip().startswith(">"):
            lines.append(line)
        if line.rstrip().endswith(_INTRODUCES):
            break
    found = sentences("\n".join(lines))
    if len(found) > MOST_SENTENCES:
        return []
    return [each for each in found if SHORTEST <= len(each) <= LONGEST and not _is_fragment(each)]


def _is_fragment(sentence: str) -> bool:
    """Whether it is a single word, which states nothing: an answer, a heading, a name."""
    found = words(sentence)
    return len(found) < 2 and not any(has_no_spaces(word) for word in found)
