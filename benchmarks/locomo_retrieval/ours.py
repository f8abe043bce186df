"""Ours, through the code that serves requests: vault, outbox, embedder, Chroma, fusion, permission.

Each conversation is the memory of one person, a cube for each of its sessions.  Ablations use the
same store with other weights, so they differ in nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.locomo_retrieval.dataset import Conversation, Question, Turn
from benchmarks.locomo_retrieval.metrics import distinct
from memos_vllm.config import Config, EmbedderConfig, RetrievalConfig, RetrievalWeights
from memos_vllm.cube.ids import PersonId
from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, NewCube, NewMeta
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.operator.embedder import Vectors
from memos_vllm.operator.search import MemOperator
from memos_vllm.system import MemorySystem

TIMED_TOP_K = 20


def _weights(
    *channels: str, session_prior: float = 0.0, speaker_boost: float = 0.0
) -> dict[str, float]:
    every = ("lexical_turn", "lexical_window", "dense_turn", "dense_window")
    on = {name: float(name in channels) for name in every}
    return on | {"session_prior": session_prior, "speaker_boost": speaker_boost}


_FOUR = ("lexical_turn", "lexical_window", "dense_turn", "dense_window")
_LIFT = RetrievalWeights()
ABLATIONS: Mapping[str, RetrievalWeights] = {
    name: RetrievalWeights(**weights)
    for name, weights in {
        "lexical_turn_only": _weights("lexical_turn"),
        "dense_turn_only": _weights("dense_turn"),
        "four_way": _weights(*_FOUR),
        "four_way_session_prior": _weights(*_FOUR, session_prior=_LIFT.session_prior),
        "four_way_speaker_boost": _weights(*_FOUR, speaker_boost=_LIFT.speaker_boost),
        "without_windows": _weights(
            "lexical_turn",
            "dense_turn",
            session_prior=_LIFT.session_prior,
            speaker_boost=_LIFT.speaker_boost,
        ),
    }.items()
}


def open_system(home: Path, embedder: str) -> MemorySystem:
    """Defaults, but for the query cache: a question must cost what it costs the first time."""
    config = Config(home=home, embedder=EmbedderConfig(model=embedder, query_cache=0))
    return MemorySystem(config).open()


def person(conversation: Conversation) -> Principal:
    return Principal(LOCAL_TENANT, Role.ADMIN, "benchmark", PersonId(conversation.name))


def remember(system: MemorySystem, conversation: Conversation) -> None:
    """Store and index a conversation; raises RuntimeError when anything is left unindexed."""
    cubes = [
        NewCube(
            meta=NewMeta(name=f"{conversation.name} {session}"),
            payload=ExplicitPayload(content=[_item(turn) for turn in turns]),
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
    """The question's vector, and the milliseconds that embedding and search took together."""
    principal = person(conversation)
    start = time.perf_counter()
    vector = await system.embed_question(principal, question.text)
    result = system.search(principal, question.text, vector, TIMED_TOP_K)
    elapsed_ms = (time.perf_counter() - start) * 1000
    if result.degraded:
        raise RuntimeError(f"the search went without its {result.degraded}")
    return vector, elapsed_ms


def operators(system: MemorySystem, *, ablations: bool) -> dict[str, MemOperator]:
    """`ours` as configured, and (if wanted) the same store searched with other weights."""
    found = {"ours": system.operator}
    for name, weights in ABLATIONS.items() if ablations else ():
        config = RetrievalConfig(
            **{**system.config.retrieval.model_dump(), "weights": weights.model_dump()}
        )
        found[name] = MemOperator(config, system.views, system.index)
    return found


def rank(
    operator: MemOperator,
    conversation: Conversation,
    question: Question,
    vector: Vectors,
    depth: int,
) -> list[str]:
    """Turn ids, best first; a turn that was stored as several passages counts where it is best."""
    result = operator.search(person(conversation), question.text, vector, depth)
    return distinct(found.recalled.item.source or "" for found in result.found)


def _item(turn: Turn) -> Item:
    return Item(
        type=ItemType.EPISODE,
        text=turn.text,
        speaker=turn.speaker,
        time=turn.time,
        session=turn.session,
        source=turn.id,
    )
