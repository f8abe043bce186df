"""How memory is searched.

The default weights are rounded from a fit on LoCoMo's ten conversations
(`benchmarks/locomo_retrieval/fit.py`); what such weights are worth on a conversation that they were
not fitted on is that benchmark's headline.
"""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class RetrievalWeights(Section):
    """What a signal counts in an item's score; the six signals are averaged, then lifts are added."""

    lexical_turn: float = Field(0.5, ge=0, description="BM25 over the item")
    lexical_window: float = Field(
        0.6, ge=0, description="BM25 over the item behind its predecessor"
    )
    dense_turn: float = Field(1.15, ge=0, description="cosine of the item")
    dense_window: float = Field(1.45, ge=0, description="cosine of the item behind its predecessor")
    coverage: float = Field(
        0.9, ge=0, description="share of the question's words that stand in the item or near it"
    )
    session_coverage: float = Field(
        0.45, ge=0, description="share of the question's words that stand in the item's session"
    )
    session_prior: float = Field(0.12, ge=0, description="lift of a session with other good items")
    speaker_boost: float = Field(0.3, ge=0, description="lift of items by a speaker who is named")
    time_boost: float = Field(
        1.1, ge=0, description="lift of items from the month, year or day that is named"
    )
    when_boost: float = Field(
        0.3, ge=0, description="lift of items that name a time, for questions that ask for one"
    )
    question_penalty: float = Field(0.1, ge=0, description="what items lose that are questions")


class RetrievalConfig(Section):
    top_k: int = Field(8, ge=0, le=1000, description="items searched for a question")
    candidates: int = Field(
        200, ge=1, description="dense neighbours of an owner too large for the cache of vectors"
    )
    min_cosine: float = Field(
        0.2, ge=-1, le=1, description="below it, and without a shared word: out"
    )
    weights: RetrievalWeights = RetrievalWeights()
    cached_owners: int = Field(256, ge=1, description="lexical indexes kept in memory")
    vector_cache_bytes: int = Field(
        512 << 20, ge=0, description="owners' vectors kept in memory; larger ones: asked of Chroma"
    )
    linked_items: int = Field(
        2, ge=0, description="that the step `link` adds: they share a name with what was found"
    )
    reranker: str | None = Field(
        None, description="cross-encoder of the step `rerank`: name or folder"
    )
    reranker_device: str = Field("cpu", description="its torch device")
    rerank_depth: int = Field(24, ge=1, description="items that it reads")
