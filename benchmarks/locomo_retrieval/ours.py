"""memos_vllm through the code that serves requests: vault, outbox, embedder, Chroma, fusion, permission.

Each conversation is the memory of one person, with a cube per session.  Ablations use the same store with
other weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.locomo_retrieval.dataset import Conversation, Question, Turn
from benchmarks.locomo_retrieval.metrics import distinct
from benchmarks.retrieval_general.fit import Example
from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.config.tree import Config, EmbedderConfig
from memos_vllm.cube.ids import PersonId
from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, NewCube, NewMeta
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.search.fusion import fuse
from memos_vllm.system import MemorySystem

TIMED_TOP_K = 20


_FOUR = ("lexical_turn", "lexical_window", "dense_turn", "dense_window")
_SHIPPED = RetrievalWeights()


def _only(*channels: str, **lifts: float) -> RetrievalWeights:
    """Equal weights of these channels, these lifts, zero for the rest."""
    every = dict.fromkeys(RetrievalWeights.model_fields, 0.0)
    return RetrievalWeights(**(every | dict.fromkeys(channels, 1.0) | lifts))


def _without(name: str) -> RetrievalWeights:
    return _SHIPPED.model_copy(update={name: 0.0})


ABLATIONS: Mapping[str, RetrievalWeights] = {
    "lexical_turn_only": _only("lexical_turn"),
    "lexical_window_only": _only("lexical_window"),
    "dense_turn_only": _only("dense_turn"),
    "four_way": _only(*_FOUR),
    "four_way_session_prior": _only(*_FOUR, session_prior=0.2),
    "four_way_speaker_boost": _only(*_FOUR, speaker_boost=0.2),
    "four_way_both": _only(*_FOUR, session_prior=0.2, speaker_boost=0.2),
    "four_way_both_coverage": _only(*_FOUR, "coverage", session_prior=0.2, speaker_boost=0.2),
} | {
    f"without_{name}": _without(name)
    for name in (
        *("coverage", "near_coverage", "session_prior", "speaker_boost", "time_boost"),
        *("when_boost", "question_penalty"),
    )
}


def open_system(home: Path, embedder: str) -> MemorySystem:
    """Open a system with defaults but without the query cache, so that every question is embedded."""
    config = Config(home=home, embedder=EmbedderConfig(model=embedder, query_cache=0))
    return MemorySystem(config).open()


def person(conversation: Conversation) -> Principal:
    return Principal(LOCAL_TENANT, Role.ADMIN, "benchmark", PersonId(conversation.name))


def remember(system: MemorySystem, conversation: Conversation) -> None:
    """Store and index a conversation. Raises RuntimeError: an item was not indexed."""
    cubes = [
        NewCube(
            meta=NewMeta(name=f"{conversation.name} {session}"),
            payload=ExplicitPayload(content=[item_of(turn) for turn in turns]),
        )
        for session, turns in conversation.sessions.items()
    ]
    system.create(person(conversation), cubes)
    if left := system.outbox.size():
        raise RuntimeError(f"{left} items of {conversation.name} are not indexed")
    system.operator.refresh(person(conversation))


async def ask(
    system: MemorySystem, conversation: Conversation, question: Question
) -> tuple[Vectors, float]:
    """(vector of the question, milliseconds of embedding and search)"""
    principal = person(conversation)
    start = time.perf_counter()
    vector = await system.embed_question(principal, question.text)
    result = system.search(principal, question.text, vector, TIMED_TOP_K)
    elapsed_ms = (time.perf_counter() - start) * 1000
    if result.degraded:
        raise RuntimeError(f"search was degraded: {result.degraded}")
    return vector, elapsed_ms


def example(
    system: MemorySystem, conversation: Conversation, question: Question, vector: Vectors
) -> Example:
    """Training example: the signals of every item, and the positions of the evidence."""
    state = next(one for one in system.views.owners(person(conversation)) if one.owner.person)
    ids, signals = system.operator.signals(state, question.text, vector)
    recalled = system.views.recall(person(conversation), ids)
    sources = tuple(recalled[item].item.source or "" for item in ids)
    places = tuple(n for n, source in enumerate(sources) if source in question.evidence)
    return Example(signals, places, sources)


def reweighted(example: Example, weights: RetrievalWeights, depth: int) -> list[str]:
    """Rank turn ids with other weights, best first.

    Uses the signals of the search itself.  The one difference: items that share nothing with the question
    are ranked last, not cut.
    """
    order = np.argsort(-fuse(example.signals, weights), kind="stable")[:depth]
    return distinct(example.sources[place] for place in order)


def rank(
    system: MemorySystem,
    conversation: Conversation,
    question: Question,
    vector: Vectors,
    depth: int,
) -> list[str]:
    """Rank turn ids, best first; a turn of several passages counts at its best one."""
    result = system.search(person(conversation), question.text, vector, depth)
    return distinct(found.recalled.item.source or "" for found in result.found)


def item_of(turn: Turn) -> Item:
    return Item(
        type=ItemType.EPISODE,
        text=turn.text,
        speaker=turn.speaker,
        time=turn.time,
        session=turn.session,
        source=turn.id,
    )
