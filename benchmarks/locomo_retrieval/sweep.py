"""Evidence recall and injected tokens by chunk size and k.

Sessions are cut at turns into chunks of a maximum size in tokens.  Chunks of every size are ranked by the
mean of BM25 and cosine.  Evidence is found when its turn is in one of the first k chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.locomo_retrieval.dataset import Conversation, Dataset, Turn
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.search.fusion import min_max, without_names
from memos_vllm.plaintext.search.owner_index import OwnerIndex, Part
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import IndexedItem, PartKey

KS = (1, 3, 5, 10, 20)
SIZES = (0, 128, 256, 512)
"""Maximum tokens of a chunk; 0: one turn."""

Embed = Callable[[Sequence[str]], Vectors]
Count = Callable[[str], int]


def sweep(dataset: Dataset, embed: Embed, count: Count) -> list[dict[str, Any]]:
    """A row per size and k: mean evidence recall, and mean tokens of the k chunks."""
    rows = []
    for size in SIZES:
        found: dict[int, list[tuple[float, int]]] = {k: [] for k in KS}
        for conversation in dataset.conversations:
            for k, recall, tokens in _conversation(conversation, size, embed, count):
                found[k].append((recall, tokens))
        for k, entries in found.items():
            recall, tokens = np.mean(entries, axis=0)
            rows.append(
                {
                    "part": "chunks",
                    "chunk_tokens": size or "turn",
                    "k": k,
                    "injected_tokens": round(float(tokens), 1),
                    "evidence_recall": round(float(recall), 4),
                }
            )
    return rows


def _conversation(
    conversation: Conversation, size: int, embed: Embed, count: Count
) -> Iterator[tuple[int, float, int]]:
    chunks = [
        chunk for turns in conversation.sessions.values() for chunk in _chunks(turns, size, count)
    ]
    texts = ["\n".join(_named(turn) for turn in chunk) for chunk in chunks]
    lengths = [count(text) for text in texts]
    items = [IndexedItem(str(n), str(n), text, None, None, None) for n, text in enumerate(texts)]
    index = OwnerIndex.build(1, [Part.of(PartKey("chunks", "1", None), items)])
    vectors = embed(texts)
    speakers = {turn.speaker for turn in conversation.turns}
    asked = embed([without_names(one.text, speakers) for one in conversation.questions])
    for question, vector in zip(conversation.questions, asked, strict=True):
        lexical = min_max(index.lexical(tokenize(question.text))["lexical_turn"])
        order = np.argsort(-(lexical + min_max(vectors @ vector)), kind="stable")
        evidence = set(question.evidence)
        for k in KS:
            seen = {turn.id for place in order[:k] for turn in chunks[place]}
            yield k, len(evidence & seen) / len(evidence), sum(lengths[p] for p in order[:k])


def _chunks(turns: Sequence[Turn], size: int, count: Count) -> Iterator[list[Turn]]:
    chunk: list[Turn] = []
    tokens = 0
    for turn in turns:
        length = count(_named(turn))
        if chunk and tokens + length > size:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(turn)
        tokens += length
    if chunk:
        yield chunk


def _named(turn: Turn) -> str:
    return f"{turn.speaker}: {turn.text}"
