"""Sentence model: what an encoder needs of a library that runs one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""(num_texts, dim), rows of length 1."""
Offsets = list[tuple[int, int]]
"""First and last character of each token."""


class SentenceModel(Protocol):
    """A loaded model. One thread at a time calls `encode`; others may count tokens meanwhile.

    Each method raises the library's own errors.
    """

    max_tokens: int
    """Longest text, tokens, without special ones."""

    def encode(self, texts: list[str]) -> Vectors:
        """Embed texts that fit: (len(texts), dim), rows of length 1."""
        ...

    def offsets(self, text: str) -> Offsets:
        """Tokens of a text of any length, without special ones."""
        ...

    def count(self, text: str) -> int:
        """Number of these tokens."""
        ...


class Background(NamedTuple):
    """Cosines of a question with unrelated texts."""

    mean: float
    deviation: float


class SignedVector(np.ndarray):  # type: ignore[type-arg]
    """(dim,) of a question, with what search has to know of the embedder that made it."""

    signature: str | None = None
    background: Background | None = None

    @classmethod
    def of(cls, vector: Vectors, signature: str, background: Background | None) -> SignedVector:
        signed = vector.view(cls)
        signed.signature, signed.background = signature, background
        return signed


def signature_of(vector: Vectors) -> str | None:
    """Signature of a vector's embedder; None: not known."""
    return getattr(vector, "signature", None)


def background_by(vector: Vectors | None) -> Background | None:
    """Background of a question's vector; None: not known."""
    return getattr(vector, "background", None)
