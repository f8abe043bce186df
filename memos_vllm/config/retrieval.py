"""Configuration of the search.

The default weights are rounded from a fit on LoCoMo's ten conversations
(`benchmarks/locomo_retrieval/fit.py`); that benchmark's headline is their recall on held-out
conversations.
"""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class RetrievalWeights(Section):
    """Weights of an item's score: a weighted mean of six signals, plus boosts."""

    lexical_turn: float = Field(0.5, ge=0, description="BM25 of the item")
    lexical_window: float = Field(0.6, ge=0, description="BM25 of the item with its predecessor")
    dense_turn: float = Field(1.15, ge=0, description="cosine of the item")
    dense_window: float = Field(1.45, ge=0, description="cosine of the item with its predecessor")
    coverage: float = Field(
        0.9, ge=0, description="share of the question's words that occur in the item or near it"
    )
    session_coverage: float = Field(
        0.45, ge=0, description="share of the question's words that occur in the item's session"
    )
    session_prior: float = Field(
        0.12, ge=0, description="boost of items whose session has other good items"
    )
    speaker_boost: float = Field(
        0.3, ge=0, description="boost of items by a speaker named in the question"
    )
    time_boost: float = Field(
        1.1, ge=0, description="boost of items from a year, month or day named in the question"
    )
    when_boost: float = Field(
        0.3, ge=0, description="boost of items that name a time, for questions that ask for one"
    )
    question_penalty: float = Field(0.1, ge=0, description="penalty of items that are questions")


class RetrievalConfig(Section):
    top_k: int = Field(8, ge=0, le=1000, description="items retrieved for a question")
    most_replies: int = Field(
        2, ge=0, description="most replies of the assistant among the items in a prompt"
    )
    reply_tokens: int = Field(
        80,
        ge=1,
        description="longest reply in a prompt, tokens of the chat model; a longer one is cut to the "
        "sentences that match the question",
    )
    most_of_session: int = Field(
        4,
        ge=1,
        description="items of one session in a prompt, while other sessions have some that match",
    )
    candidates: int = Field(
        200,
        ge=1,
        description="dense neighbours retrieved from Chroma for an owner whose vectors are not cached",
    )
    min_cosine: float = Field(
        0.2,
        ge=-1,
        le=1,
        description="items below it that share no word with the question are dropped",
    )
    weights: RetrievalWeights = RetrievalWeights()
    cached_owners: int = Field(
        256, ge=1, description="owners whose lexical index is cached in memory"
    )
    vector_cache_bytes: int = Field(
        512 << 20,
        ge=0,
        description="cache of owners' vectors, bytes; larger owners are searched in Chroma",
    )
    linked_items: int = Field(
        2, ge=0, description="items that the step `link` adds because they share a name with a hit"
    )
    reranker: str | None = Field(
        None, description="cross-encoder of the step `rerank`, name or folder"
    )
    reranker_device: str = Field("cpu", description="torch device of the reranker")
    rerank_depth: int = Field(24, ge=1, description="items that the reranker scores")
