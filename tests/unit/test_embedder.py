"""Embedding of questions: cache per person, batching, encoder processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.demo.embedder import minilm_path
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.encoder import Encoder
from memos_vllm.plaintext.embed.process import EncoderProcess
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")


def test_the_query_cache_is_separate_for_each_person(system):
    async def ask() -> None:
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(BOB, "Where is it?")

    system.embedder.warm()
    with mock.patch.object(
        type(system.embedder), "_encode", autospec=True, side_effect=type(system.embedder)._encode
    ) as encode:
        asyncio.run(ask())
    assert encode.call_count == 2


def test_concurrent_questions_are_embedded_in_one_batch(tmp_path):
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


def test_bfloat16_vectors_are_nearly_the_same_and_have_another_signature(tmp_path):
    texts = ["My cat is called Miso.", "Where do I live?", "word " * 400]
    exact, half = (
        Embedder(
            make_config(tmp_path, embedder={"dtype": dtype, "model": str(minilm_path())}).embedder
        )
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


TEXTS = ["My cat is called Miso.", "", "word " * 400, "Grüße aus Köln ☕"]


def config(tmp_path: Path, **embedder: object) -> EmbedderConfig:
    return make_config(tmp_path, embedder={"processes": 1, **embedder}).embedder


@pytest.fixture(scope="module")
def process(tmp_path_factory) -> Iterator[EncoderProcess]:
    encoder = EncoderProcess(config(tmp_path_factory.mktemp("encoder")))
    yield encoder
    encoder.close()


@pytest.mark.slow
def test_an_encoder_process_gives_the_same_vectors(process, tmp_path):
    here = Encoder(config(tmp_path))
    assert np.array_equal(process.encode(TEXTS), here.encode(TEXTS))
    assert process.pid != os.getpid()
    for text in TEXTS:
        assert process.count_tokens(text) == here.count_tokens(text)


@pytest.mark.slow
def test_concurrent_threads_each_get_their_own_vectors(process):
    expected = {text: process.encode([text])[0] for text in TEXTS}
    found: list[tuple[str, np.ndarray, int]] = []

    def ask(text: str) -> None:
        for _ in range(5):
            found.append((text, process.encode([text])[0], process.count_tokens(text)))

    threads = [threading.Thread(target=ask, args=(text,)) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5 * len(TEXTS)
    assert all(np.array_equal(vector, expected[text]) for text, vector, _ in found)


@pytest.mark.slow
def test_a_killed_process_is_restarted(process):
    before = process.encode(["still here"])
    killed = process.pid
    os.kill(killed, signal.SIGKILL)
    assert np.array_equal(process.encode(["still here"]), before)
    assert process.pid not in (None, killed)


@pytest.mark.slow
def test_ctrl_c_does_not_end_the_process(process):
    process.encode(["warm"])
    os.kill(process.pid, signal.SIGINT)
    pid = process.pid
    process.encode(["still here"])
    assert process.pid == pid


def test_a_process_that_ends_twice_is_not_restarted_at_once(tmp_path):
    encoder = EncoderProcess(config(tmp_path))
    real = subprocess.Popen

    def ends(command, **options):
        return real([sys.executable, "-c", "raise SystemExit(3)"], **options)

    with mock.patch.object(subprocess, "Popen", side_effect=ends) as started:
        for _ in range(3):
            with pytest.raises(EmbedderUnavailable, match="ended twice"):
                encoder.encode(["x"])
    assert started.call_count == 2
    assert encoder.pid is None


@pytest.mark.slow
def test_a_missing_model_is_an_error_with_its_name(tmp_path):
    embedder = Embedder(config(tmp_path, model=str(tmp_path / "nowhere")))
    with pytest.raises(EmbedderUnavailable, match=r"nowhere.*cannot be loaded"):
        embedder.embed(["x"])
    embedder.close()


def test_a_text_that_the_model_rejects_does_not_end_the_process(process):
    process.encode(["warm"])
    pid = process.pid
    for ask in (lambda: process.count_tokens("\ud800"), lambda: process.encode(["\ud800"])):
        with pytest.raises(EmbedderUnavailable, match="failed"):
            ask()
    assert process.encode(["still here"]).shape[0] == 1
    assert process.pid == pid


def test_a_cancelled_question_does_not_block_the_next_ones(tmp_path):
    embedder = Embedder(make_config(tmp_path).embedder)
    embedder.warm()
    asked, go_on = threading.Event(), threading.Event()

    def fails(*_: object) -> None:
        asked.set()
        go_on.wait(10)
        raise EmbedderUnavailable("broken")

    async def give_up() -> None:
        asking = asyncio.create_task(embedder.embed_query("x", "ann"))
        await asyncio.to_thread(asked.wait, 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go_on.set()

    with mock.patch.object(Embedder, "_encode", side_effect=fails):
        asyncio.run(give_up())
        with pytest.raises(EmbedderUnavailable):
            embedder.embed(["y"])
    assert asyncio.run(asyncio.wait_for(embedder.embed_query("z", "ann"), 10)).shape == (384,)
    embedder.close()


@pytest.mark.slow
def test_the_process_ends_with_its_parent(tmp_path):
    """It does not outlive a killed server."""
    script = f"""
import os, signal
from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.plaintext.embed.process import EncoderProcess
encoder = EncoderProcess(EmbedderConfig(model={config(tmp_path).model!r}))
encoder.count_tokens("warm")
print(encoder.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    server = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False
    )
    child = int(server.stdout)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(child)


def test_closing_during_the_model_load_ends_the_process_at_once(tmp_path):
    encoder = EncoderProcess(config(tmp_path))
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(encoder.encode(["x"]))
        except EmbedderUnavailable as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while encoder.pid is None:
        time.sleep(0.01)
    started = time.monotonic()
    encoder.close()
    asking.join()
    assert time.monotonic() - started < 2
    assert isinstance(outcome[0], EmbedderUnavailable)
    with pytest.raises(EmbedderUnavailable, match="closed"):
        encoder.encode(["x"])
    assert encoder.pid is None
