"""Questions as vectors: cached for their asker alone, embedded together."""

from __future__ import annotations

import asyncio
from unittest import mock

import numpy as np

from memos_vllm.operator.embedder import Embedder
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")


def test_questions_are_cached_for_their_asker_alone(system):
    async def ask() -> None:
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(BOB, "Where is it?")

    with mock.patch.object(
        type(system.embedder), "_encode", autospec=True, side_effect=type(system.embedder)._encode
    ) as encode:
        asyncio.run(ask())
    assert encode.call_count == 2


def test_questions_asked_at_once_are_embedded_together(tmp_path):
    system = MemorySystem(make_config(tmp_path, embedder={"batch_wait_ms": 300})).open()
    system.embedder.warm()

    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(
            *(system.embed_question(principal(f"p{n}"), f"question {n}") for n in range(8))
        )

    real = type(system.embedder)._encode
    with mock.patch.object(
        type(system.embedder), "_encode", autospec=True, side_effect=real
    ) as encode:
        vectors = asyncio.run(ask())
    assert encode.call_count <= 2
    alone = system.embedder.embed(["question 3"])
    assert np.allclose(vectors[3], alone[0], atol=1e-4)
    system.close()


def test_in_bfloat16_vectors_are_nearly_the_same_and_have_a_signature_of_their_own(tmp_path):
    texts = ["My cat is called Miso.", "Where do I live?", "word " * 400]
    exact, half = (
        Embedder(make_config(tmp_path, embedder={"dtype": dtype}).embedder)
        for dtype in ("float32", "bfloat16")
    )
    one, other = exact.embed(texts), half.embed(texts)
    exact.close()
    half.close()
    assert other.dtype == np.float32
    assert np.allclose(np.linalg.norm(other, axis=1), 1, atol=1e-3)
    assert (one * other).sum(axis=1).min() > 0.99
    assert not np.array_equal(one, other)
    assert exact.signature != half.signature
