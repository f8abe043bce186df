"""The classifier of statements and the judge of changes, alone."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reading import data
from memos_vllm.plaintext.claims.change import PairJudge
from memos_vllm.plaintext.claims.follow import FollowJudge
from memos_vllm.plaintext.statements.reader import StatementReader, own_sentences

JUDGED = data.DATA / "judged.json"
"""Hits on real turns, judged by hand: the sentence's digest, and whether it was rightly kept."""


def held_out(reader: StatementReader) -> dict[str, Any]:
    """Recall by language and precision on the held-out third of the own sentences."""
    rows = [row for row in data.statements() if row.is_held_out]
    kept = [each.is_kept for each in reader.read([row.text for row in rows])]
    result: dict[str, Any] = {
        "sentences": len(rows),
        "precision": _share(
            [row.kind > 0 for row, is_kept in zip(rows, kept, strict=True) if is_kept]
        ),
    }
    for language in data.LANGUAGES:
        result[f"recall_{language}"] = _share(
            is_kept
            for row, is_kept in zip(rows, kept, strict=True)
            if row.kind > 0 and row.language == language
        )
    return result


def changes(reader: StatementReader) -> dict[str, Any]:
    """Recall and precision of the judge on the topics that are held out."""
    judge = PairJudge(reader)
    rows = [pair for pair in data.pairs() if pair.is_held_out]
    found = [judge.judge(pair.old, pair.new) == "updates" for pair in rows]
    marked = [hit or is_linked for hit, is_linked in zip(found, _linked(reader, rows), strict=True)]
    return {
        "pairs": len(rows),
        "replacing": sum(pair.replaces for pair in rows),
        "recall": _share(hit for hit, pair in zip(found, rows, strict=True) if pair.replaces),
        "precision": _share(pair.replaces for hit, pair in zip(found, rows, strict=True) if hit),
        "marked": _share(hit for hit, pair in zip(marked, rows, strict=True) if pair.replaces),
        "marked_of_others": _share(
            hit for hit, pair in zip(marked, rows, strict=True) if not pair.replaces
        ),
    }


def _linked(reader: StatementReader, rows: Sequence[data.Pair]) -> list[bool]:
    """Whether the newer sentence of each pair would mark the older, if it were the only one."""
    judge = FollowJudge(reader)
    return [bool(judge.linked([("", pair.old)], pair.new, stands_out=False)) for pair in rows]


def explicit_preferences(reader: StatementReader, texts: Sequence[str]) -> float:
    """Share of preferences of which a sentence is kept."""
    return _share(any(each.is_kept for each in reader.read(own_sentences(text))) for text in texts)


def real_turns(reader: StatementReader, path: Path) -> dict[str, Any]:
    """Hits on the user turns of LongMemEval, and how many were judged to be right."""
    texts = list(dict.fromkeys(s for text in _user_turns(path) for s in own_sentences(text)))
    hits = [each.text for each in reader.read(texts) if each.is_kept]
    judged = json.loads(JUDGED.read_text(encoding="utf-8"))
    known = [judged[digest(text)] for text in hits if digest(text) in judged]
    return {
        "sentences": len(texts),
        "kept": len(hits),
        "judged": len(known),
        "precision": _share(known),
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user_turns(path: Path) -> Iterator[str]:
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        for session in entry["haystack_sessions"]:
            yield from (turn["content"] for turn in session if turn["role"] == "user")


def _share(values: Any) -> float:
    listed = [bool(value) for value in values]
    return round(sum(listed) / len(listed), 4) if listed else 0.0
