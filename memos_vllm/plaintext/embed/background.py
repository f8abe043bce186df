"""Background of an embedder: the cosine of texts that have nothing to do with each other.

Models spread their cosines differently: it is about 0.05 in MiniLM, 0.6 in granite, 0.75 in E5.  What a
cosine means is how far it stands above that.
"""

from __future__ import annotations

import numpy as np

from memos_vllm.plaintext.embed.model import Vectors

UNRELATED = (
    "The shop opens at seven in the morning.",
    "My dog is ill.",
    "Photosynthesis turns light into sugar.",
    "Could you fix the error in this function?",
    "We flew to Lisbon for our anniversary.",
    "Interest rates rose by half a percent.",
    "He plays the violin in an orchestra.",
    "Add two eggs and a cup of flour.",
    "The treaty was signed in 1648.",
    "My password must be changed every month.",
)


def background_of(vectors: Vectors) -> float:
    """Mean cosine of unrelated texts, at least 0.

    Args:
        vectors: (num_texts, dim) of `UNRELATED`, rows of length 1.
    """
    cosines = vectors @ vectors.T
    return max(0.0, float(cosines[~np.eye(len(vectors), dtype=bool)].mean()))


def above(cosines: Vectors, background: float) -> Vectors:
    """Cosines on a scale on which unrelated texts have 0 and equal texts 1; NaN stays."""
    scaled: Vectors = ((cosines - background) / (1.0 - background)).astype(np.float32)
    return scaled
