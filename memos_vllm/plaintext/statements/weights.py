"""Weights of the classifier of statements and of the judge of changes, one file per embedder.

A file is found by what the embedder does, not by its name: it holds the vectors of a few probe sentences,
and fits an embedder that gives the same ones.  An embedder without a file is served by `any.npz`, which
uses no vectors.  `python -m benchmarks.reading.train` makes files; those under `home` go first.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.statements.features import BUCKETS, SHAPE

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
SHIPPED = Path(__file__).parent / "weights"
ANY = "any.npz"
KINDS = ("none", "preference", "constraint", "instruction", "fact")
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "I would like a cup of tea, please.",
    "Der Zug nach Wien fährt um acht Uhr ab.",
)
_SAME_COSINE = 0.95
"""Least mean cosine of the probes: int8 and float32 weights of one model reach 0.98."""


@dataclasses.dataclass(frozen=True)
class Weights:
    vectors: Floats
    """(len(KINDS), dim) of a sentence's vector; dim is 0 where vectors are not used."""
    grams: Floats
    """(len(KINDS), BUCKETS)"""
    shape: Floats
    """(len(KINDS), SHAPE)"""
    bias: Floats
    """(len(KINDS),)"""
    threshold: float
    """Least probability of a statement that is kept."""
    rarity: Floats
    """(BUCKETS,) of words, by how rarely sentences have them."""
    pair: Floats
    """(len(claims.change.FEATURES),) of two sentences."""
    pair_bias: float
    pair_threshold: float
    link: Floats
    """(len(claims.follow.FEATURES),) of two sentences, whether both are on the same thing."""
    link_bias: float
    link_threshold: float
    usual: Floats
    """(languages, dim) mean vectors of a language's sentences, for what a cosine means."""
    probes: Vectors
    """(len(PROBES), dim)"""

    @property
    def uses_vectors(self) -> bool:
        return self.vectors.shape[1] > 0

    def save(self, path: Path) -> None:
        values = {name: np.asarray(value) for name, value in dataclasses.asdict(self).items()}
        values["grams"] = values["grams"].astype(np.float16)
        values["rarity"] = values["rarity"].astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **values)

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Raises ValueError: the file has another layout."""
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {field.name: file[field.name] for field in dataclasses.fields(cls)}
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name} is no file of weights: {error}") from error
        for name, value in values.items():
            values[name] = value.astype(np.float32) if value.ndim else float(value)
        found = cls(**values)
        kinds = len(KINDS)
        if found.grams.shape != (kinds, BUCKETS) or found.shape.shape != (kinds, SHAPE):
            raise ValueError(f"{path.name} is of another version: train it again")
        return found


def weights_for(probes: Vectors | None, folders: Sequence[Path]) -> Weights:
    """The weights that fit an embedder.

    Args:
        probes: (len(PROBES), dim), its vectors of PROBES; None: it does not answer.
        folders: searched in this order, then what is shipped.
    """
    if probes is not None:
        for folder in [*folders, SHIPPED]:
            for path in sorted(folder.glob("*.npz")) if folder.is_dir() else ():
                try:
                    found = Weights.load(path)
                except ValueError as error:
                    log.warning("weights are left out: %s", error)
                    continue
                if _fits(found, probes):
                    return found
    return _without_vectors()


@functools.cache
def _without_vectors() -> Weights:
    return Weights.load(SHIPPED / ANY)


def _fits(weights: Weights, probes: Vectors) -> bool:
    if not weights.uses_vectors or weights.probes.shape != probes.shape:
        return False
    return float((weights.probes * probes).sum(axis=1).mean()) >= _SAME_COSINE
