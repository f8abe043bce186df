"""Which languages an embedder relates to English: a probe with parallel sentences.

For each language, the cosine of sentences with the same meaning is compared with that of unrelated ones.
The difference counts as a share of the one between English paraphrases, as models spread their cosines
differently (unrelated texts: 0.0 in one, 0.6 in another).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from memos_vllm.plaintext.embed.model import Vectors

MULTILINGUAL = (
    "ibm-granite/granite-embedding-107m-multilingual",
    "intfloat/multilingual-e5-small",
)
"""Models that relate many languages, and that a CPU can run."""
_ENGLISH, _PARAPHRASES = "English", "English, in other words"
_LEAST_SHARE = 0.5


def shares(embed: Callable[[Sequence[str]], Vectors]) -> Mapping[str, float]:
    """For each language, how well it is related to English: about 1 as English paraphrases, 0 not at all.

    Args:
        embed: texts to (len(texts), dim), rows of length 1.
    """
    path = Path(__file__).with_name("parallel_sentences.json")
    texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    vectors = embed([text for sentences in texts.values() for text in sentences])
    by_language = dict(zip(texts, np.split(vectors, len(texts)), strict=True))
    english = by_language.pop(_ENGLISH)
    least = 1e-6
    base = max(_difference(english, by_language.pop(_PARAPHRASES)), least)
    return {name: _difference(english, rows) / base for name, rows in by_language.items()}


def unrelated(found: Mapping[str, float]) -> list[str]:
    """Languages that the embedder does not relate to English, by the result of `shares`."""
    return [language for language, share in found.items() if share < _LEAST_SHARE]


def _difference(english: Vectors, rows: Vectors) -> float:
    """Mean cosine of the same meanings, minus that of different ones."""
    cosines = english @ rows.T
    same = np.eye(len(english), dtype=bool)
    return float(cosines[same].mean() - cosines[~same].mean())
