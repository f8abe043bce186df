"""Configuration of the search.

The default weights are rounded from a fit on LoCoMo, LongMemEval and PrefEval together
(`benchmarks/retrieval_general/fit.py`); that benchmark reports them on data sets left out whole.
"""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class RetrievalWeights(Section):
    """Weights of an item's score: a weighted sum of signals, of which most are 0 to 1."""

    lexical_turn: float = Field(
        1.6, ge=0, description="BM25 of the item, of the question's best possible"
    )
    lexical_window: float = Field(
        1.4, ge=0, description="BM25 of the item with its predecessor, likewise"
    )
    dense_turn: float = Field(
        2.7,
        ge=0,
        description="standing of the item's cosine, standard deviations above the background",
    )
    dense_window: float = Field(0.3, ge=0, description="standing of the item with its predecessor")
    coverage: float = Field(
        2.5, ge=0, description="share of the question's information in the item"
    )
    near_coverage: float = Field(
        2.5, ge=0, description="share of the question's information in the item and its neighbours"
    )
    session_prior: float = Field(
        1.0, ge=0, description="boost of items whose session has other good items"
    )
    speaker_boost: float = Field(
        2.5, ge=0, description="boost of items by a speaker named in the question"
    )
    time_boost: float = Field(
        3.7, ge=0, description="boost of items from a year, month or day named in the question"
    )
    when_boost: float = Field(
        1.9, ge=0, description="boost of items that name a time, for questions that ask for one"
    )
    question_penalty: float = Field(0.8, ge=0, description="penalty of items that are questions")
    reply_penalty: float = Field(
        4.0, ge=0, description="penalty of the assistant's replies and of tool results"
    )
    reply_boost: float = Field(
        2.0, ge=0, description="boost of replies for questions about what the assistant said"
    )


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
        3,
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
        description="items below it that share no word with the question are dropped; 0 is the cosine of "
        "unrelated texts in the embedder, 1 that of equal ones",
    )
    weights: RetrievalWeights = RetrievalWeights()
    beliefs: int = Field(
        4,
        ge=0,
        description="the person's preferences and kept statements on the question's topic that are added "
        "to the items retrieved; those in the profile are in the prompt anyway",
    )
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
