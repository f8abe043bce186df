"""memos_vllm on each store, through the code that serves requests: vault, outbox, embedder, Chroma, fusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.locomo_retrieval.metrics import distinct
from benchmarks.locomo_retrieval.ours import item_of
from benchmarks.retrieval_general.datasets import Question, Store, Turn
from benchmarks.retrieval_general.fit import Example
from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.config.tree import Config, EmbedderConfig
from memos_vllm.cube.ids import PersonId
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.plaintext.search.fusion import fuse
from memos_vllm.system import MemorySystem

_CUBES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    store: Store
    question: Question
    example: Example


def open_system(home: Path, embedder: str) -> MemorySystem:
    config = Config(home=home, embedder=EmbedderConfig(model=embedder))
    return MemorySystem(config).open()


async def ask_all(system: MemorySystem, store: Store) -> list[Asked]:
    """Store and index the turns, and compute the signals of every question."""
    principal = Principal(LOCAL_TENANT, Role.ADMIN, "benchmark", PersonId(store.name))
    _remember(system, principal, store)
    state = next(one for one in system.views.owners(principal) if one.owner.person)
    asked = []
    source_of: dict[str, str] = {}
    for question in store.questions:
        vector = await system.embed_question(principal, question.text)
        assert vector is not None
        ids, signals = system.operator.signals(state, question.text, vector)
        if not source_of:
            recalled = system.views.recall(principal, ids)
            source_of = {item: found.item.source or "" for item, found in recalled.items()}
        sources = tuple(source_of[item] for item in ids)
        places = tuple(n for n, source in enumerate(sources) if source in question.evidence)
        example = Example(signals, places, sources, store.family, store.part)
        asked.append(Asked(store, question, example))
    return asked


def ranked(example: Example, weights: RetrievalWeights, depth: int) -> list[str]:
    """Turn ids, best first; a turn of several passages counts at its best one."""
    order = np.argsort(-fuse(example.signals, weights), kind="stable")
    return distinct(example.sources[place] for place in order)[:depth]


def _remember(system: MemorySystem, principal: Principal, store: Store) -> None:
    cubes = [_cube(session, turns) for session, turns in store.sessions.items()]
    for start in range(0, len(cubes), _CUBES_AT_ONCE):
        system.create(principal, cubes[start : start + _CUBES_AT_ONCE])
    if left := system.outbox.size():
        raise RuntimeError(f"{left} items of {store.name} are not indexed")


def _cube(session: str, turns: list[Turn]) -> NewCube:
    return NewCube(
        meta=NewMeta(name=f"session {session}"),
        payload=ExplicitPayload(content=[item_of(turn) for turn in turns]),
    )


def session_of(store: Store) -> Mapping[str, str]:
    return {turn.id: turn.session for turn in store.turns}
