"""`python -m benchmarks.reading.train [--embedder MODEL] [--out FILE]`: weights for an embedder.

Trains on the project's own sentences, without the held-out third, and on no benchmark.  Without
`--embedder`, for the configured one; `--embedder none` makes the weights that use no vectors.  Files in
`reader/` under `home` are found by the server.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reading import data, links
from memos_vllm.config.load import load_config
from memos_vllm.plaintext.claims import follow
from memos_vllm.plaintext.claims.change import FEATURES, PairJudge
from memos_vllm.plaintext.claims.subjects import relatives, tells_change
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.statements.features import (
    BUCKETS,
    SHAPE,
    bucket,
    content,
    grams,
    shape,
)
from memos_vllm.plaintext.statements.reader import StatementReader
from memos_vllm.plaintext.statements.weights import ANY, KINDS, PROBES, SHIPPED, Weights

GRAMS, VECTORS, FRAMES = 6.0, 3.0, 0.6
"""Scale of the n-grams and of the vectors, and the weight of a framed sentence."""
THRESHOLD, THRESHOLD_WITHOUT_VECTORS = 0.82, 0.85
PAIR_THRESHOLD = 0.9
"""What is retired: all that is retired on the topics of the training is so rightly."""
LINK_THRESHOLD = 0.1
"""By the topics that training uses: a missed link leaves an old value unmarked, a wrong one adds a mark."""


class CachedEncoder:
    """An embedder whose vectors are kept in a file, so that training again takes seconds."""

    def __init__(self, embedder: Embedder, path: Path | None) -> None:
        self._embedder, self._path = embedder, path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            with np.load(path) as file:
                self._known = dict(zip(file["keys"].tolist(), file["vectors"], strict=True))

    def embed(self, texts: Sequence[str]) -> Any:
        keys = [hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts]
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        if missing:
            vectors = self._embedder.embed(list(missing.values()))
            self._known.update(zip(missing, vectors, strict=True))
            if self._path is not None and len(missing) > 1:
                self.save()
        return np.stack([self._known[key] for key in keys])

    def save(self) -> None:
        assert self._path is not None
        np.savez(self._path, keys=list(self._known), vectors=np.stack(list(self._known.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", help="model as in `embedder.model`, or `none`")
    parser.add_argument("--out", type=Path, help="default: `reader/<model>.npz` under `home`")
    parser.add_argument("--cache", type=Path, help="file that keeps the sentences' vectors")
    arguments = parser.parse_args()
    overrides = {"embedder": {"model": arguments.embedder}} if arguments.embedder else {}
    if arguments.embedder == "none":
        trained(None).save(arguments.out or SHIPPED / ANY)
        return
    config = load_config(overrides=overrides)
    out = arguments.out or config.root / "reader" / f"{Path(config.embedder.model).name}.npz"
    embedder = Embedder(config.embedder)
    trained(CachedEncoder(embedder, arguments.cache)).save(out)
    embedder.close()
    print(f"written: {out.name}", file=sys.stderr)


def trained(encoder: CachedEncoder | None) -> Weights:
    """Weights fitted on the sentences that are not held out."""
    weights = _classifier(encoder)
    pair, bias = _pairs(weights, encoder)
    weights = _with(weights, pair=pair, pair_bias=bias)
    link, link_bias = links.fitted(FixedReader(weights, encoder))
    return _with(weights, link=link, link_bias=link_bias)


def _classifier(encoder: CachedEncoder | None) -> Weights:
    from sklearn.linear_model import LogisticRegression

    own = [each for each in data.statements() if not each.is_held_out]
    framed = data.framed()
    rows = [*own, *framed]
    texts = [row.text for row in rows]
    inputs = np.hstack(
        [GRAMS * np.stack([grams(t) for t in texts]), np.stack(list(map(shape, texts)))]
    )
    dim = 0
    if encoder is not None:
        vectors = encoder.embed(texts)
        dim = vectors.shape[1]
        inputs = np.hstack([inputs, VECTORS * vectors])
    share = np.r_[np.ones(len(own)), np.full(len(framed), FRAMES)]
    model = LogisticRegression(C=3.0, max_iter=500)
    model.fit(inputs, [row.kind for row in rows], sample_weight=share)
    found = model.coef_.astype(np.float32)
    edges = BUCKETS, BUCKETS + SHAPE
    return Weights(
        vectors=VECTORS * found[:, edges[1] :] if dim else np.zeros((len(KINDS), 0), np.float32),
        grams=GRAMS * found[:, : edges[0]],
        shape=found[:, edges[0] : edges[1]],
        bias=model.intercept_.astype(np.float32),
        threshold=THRESHOLD if dim else THRESHOLD_WITHOUT_VECTORS,
        rarity=_rarity(texts[: len(own)]),
        pair=np.zeros(len(FEATURES), np.float32),
        pair_bias=0.0,
        pair_threshold=PAIR_THRESHOLD,
        link=np.zeros(len(follow.FEATURES), np.float32),
        link_bias=0.0,
        link_threshold=LINK_THRESHOLD,
        usual=links.usual(encoder) if encoder is not None else np.zeros((0, 0), np.float32),
        probes=encoder.embed(PROBES) if encoder is not None else np.zeros((0, 0), np.float32),
    )


def _rarity(texts: Sequence[str]) -> Any:
    """(BUCKETS,) log of the inverse share of sentences with a word; 0 to about 1."""
    counts = np.zeros(BUCKETS)
    for text in texts:
        counts[list({bucket(word) for word in content(text)})] += 1
    per_language = len(texts) / len(data.LANGUAGES)
    rarity = np.log(per_language / (1 + 3 * counts)) / np.log(per_language)
    return np.clip(rarity, 0, None).astype(np.float32)


def _pairs(weights: Weights, encoder: CachedEncoder | None) -> tuple[Any, float]:
    """Coefficients and intercept, from pairs whose newer sentence tells of a change."""
    from sklearn.linear_model import LogisticRegression

    rows = [pair for pair in data.pairs() if not pair.is_held_out and could_replace(pair)]
    judge = PairJudge(FixedReader(weights, encoder))
    inputs = np.stack([judge.features(pair.old, pair.new) for pair in rows])
    model = LogisticRegression(C=10.0, max_iter=2000)
    model.fit(inputs, [pair.replaces for pair in rows])
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def could_replace(pair: data.Pair) -> bool:
    """The conditions that the judge demands before it weighs a pair."""
    return tells_change(pair.new) and relatives(pair.old) == relatives(pair.new)


class FixedReader(StatementReader):
    """A reader with these weights, whatever is shipped."""

    def __init__(self, weights: Weights, encoder: CachedEncoder | None) -> None:
        super().__init__(encoder or CachedEncoder.__new__(CachedEncoder))
        self._fixed = weights

    @property
    def weights(self) -> Weights:
        return self._fixed


def _with(weights: Weights, **changed: Any) -> Weights:
    import dataclasses

    return dataclasses.replace(weights, **changed)


if __name__ == "__main__":
    main()
