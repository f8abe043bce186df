"""Pairs and fit of the judge that links statements on the same thing (`claims.follow`)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reading import data
from memos_vllm.plaintext.claims.follow import FollowJudge, features
from memos_vllm.plaintext.embed import languages
from memos_vllm.plaintext.statements.features import grams
from memos_vllm.plaintext.statements.reader import SentenceEncoder, StatementReader

_HARD = 2
"""Nearest statements of the language that each sentence is told apart from."""
_HARD_WEIGHT = 0.3
_OTHER_LANGUAGES = ("Arabic", "Russian")
_PARALLEL = Path(languages.__file__).with_name("parallel_sentences.json")


def usual(encoder: SentenceEncoder) -> Any:
    """(languages, dim) means of the vectors of each language's sentences."""
    texts: dict[str, list[str]] = defaultdict(list)
    for each in data.statements():
        if not each.is_held_out:
            texts[each.language].append(each.text)
    parallel = json.loads(_PARALLEL.read_text(encoding="utf-8"))
    texts |= {name: parallel[name] for name in _OTHER_LANGUAGES}
    return np.stack([encoder.embed(own).mean(axis=0) for own in texts.values()])


def fitted(reader: StatementReader) -> tuple[Any, float]:
    """Coefficients and intercept, from the groups and sentences that are not held out."""
    from sklearn.linear_model import LogisticRegression

    rows = [(p.old, p.new, p.replaces, 1.0) for p in data.pairs() if not p.is_held_out]
    rows += [(old, new, False, _HARD_WEIGHT) for old, new in _hard(reader)]
    judge = FollowJudge(reader)
    texts = list(dict.fromkeys(text for old, new, _, _ in rows for text in (old, new)))
    side = dict(zip(texts, judge.sides(texts), strict=True))
    model = LogisticRegression(C=10.0, max_iter=5000)
    model.fit(
        np.stack([features(side[old], side[new]) for old, new, _, _ in rows]),
        [replaces for _, _, replaces, _ in rows],
        sample_weight=[weight for *_, weight in rows],
    )
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


def _vectors(reader: StatementReader, texts: list[str]) -> Any:
    """(len(texts), dim) of meaning, else of letters where the weights use no embedder."""
    found = reader.vectors(texts)
    return found if found is not None else np.stack([grams(text) for text in texts])


def _hard(reader: StatementReader) -> Iterator[tuple[str, str]]:
    """Each sentence behind the nearest statements of its language, none of which it replaces."""
    said = [each for each in data.statements() if not each.is_held_out]
    groups = [each for each in data.groups() if not each.is_held_out]
    for language in data.LANGUAGES:
        news = [each.text for each in said if each.language == language]
        olds = [each.text for each in said if each.language == language and each.kind > 0]
        olds += [
            text
            for group in groups
            if group.language == language
            for text in (*group.before, *group.beside)
        ]
        left, right = (_vectors(reader, texts) for texts in (olds, news))
        for new, cosines in zip(news, right @ left.T, strict=True):
            nearest = [olds[i] for i in np.argsort(-cosines) if olds[i] != new]
            yield from ((old, new) for old in nearest[:_HARD])
