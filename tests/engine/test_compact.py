"""Compacts: KV of a cube in fewer places than its text has tokens. They are loaded and never computed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.engine.compacts import (
    FACTS,
    OTHER,
    QUESTION,
    ask,
    compact,
    empty_engine,
    files,
    forms,
    notes,
    said,
    stream,
)
from tests.engine.harness import MODEL, Server, chat, wait_for
from tests.engine.kv import explain, make, metric

LONG = "Once more, slowly: " + "please think about it carefully. " * 60 + QUESTION
BLOCKS = 50
CHUNK = 256


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without keys, whose engine has few blocks and computes prompts in short chunks."""
    folder = tmp_path_factory.mktemp("compact")
    flags = (
        *("--num-gpu-blocks-override", str(BLOCKS), "--max-num-batched-tokens", str(CHUNK)),
        *("--max-num-seqs", "8", "--max-model-len", "1536"),
    )
    quiet = {"MEMOS__KV__PREFETCH": "false", "VLLM_SERVER_DEV_MODE": "1"}
    with Server(folder, home=folder / "home", environment=quiet, flags=flags).running() as running:
        yield running


@pytest.fixture(scope="module")
def facts(small) -> str:
    cube = make(small, "facts", FACTS, shared=True)
    job = compact(small, cube, ratio=2, method="match")
    assert job["state"] == "done", job
    assert job["report"]["places"] == pytest.approx(job["report"]["prompt_tokens_saved"], abs=1)
    return cube


@pytest.fixture(scope="module")
def other(small) -> str:
    cube = make(small, "other", OTHER, shared=True)
    assert compact(small, cube, ratio=1.5)["state"] == "done"
    return cube


@pytest.fixture(scope="module")
def alone(small, facts) -> str:
    """The reply of a request that is alone in the engine."""
    reply = ask(small, [facts], max_tokens=24)
    assert forms(reply) == ["compact"]
    return said(reply)


def test_a_compact_answers_in_place_of_the_text(small, facts):
    text = ask(small, [facts], memory={"kv": "exact"}, max_tokens=16)
    reply = ask(small, [facts], max_tokens=16)
    used = reply.memory["cubes"][0]
    assert (used["form"], used["kv"]) == ("kv", "compact"), reply.memory
    saved = text.usage.prompt_tokens - reply.usage.prompt_tokens
    assert saved == pytest.approx(used["tokens"] - used["places"], abs=1)
    assert saved > 40
    assert "LYNX-64" in said(reply)
    assert said(reply) == said(ask(small, [facts], max_tokens=16)), "from the prefix cache"
    plan = explain(small, reply, "ann")
    entry = next(each for each in plan["entries"] if each["cube"] == facts)
    assert entry["places"] == used["places"]
    assert entry["expected_kl"] is not None
    empty_engine(small)
    loaded = ask(small, [facts], max_tokens=16)
    assert any(each["kind"] == "compact" for each in loaded.memory["cached"])
    assert said(loaded) == said(reply)


def test_without_being_asked_for_no_compact_is_used(small, facts):
    with_text = chat(small, "none", "ann", QUESTION, memory={"cubes": [facts], "write": False})
    assert "compact" not in forms(with_text)


@contextlib.contextmanager
def spoilt(server: Server, cube: str, change: str) -> Iterator[None]:
    """The compact of a cube is damaged, on disk and in shared memory; afterwards it is whole again."""
    whole = {path: path.read_bytes() for path in files(server, cube)}
    assert len(whole) == 2, "on disk and in shared memory"
    for path, content in whole.items():
        if change == "gone":
            path.unlink()
        elif change == "damaged":
            path.write_bytes(content[:-40] + bytes([content[-40] ^ 0xFF]) + content[-39:])
        else:
            path.write_bytes(content[:-200])
    empty_engine(server)
    try:
        yield
    finally:
        for path, content in whole.items():
            path.write_bytes(content)


@pytest.mark.parametrize("change", ["damaged", "truncated", "gone"])
def test_a_compact_that_cannot_be_loaded_is_the_text(small, facts, alone, change):
    exact = said(ask(small, [facts], memory={"kv": "exact"}, max_tokens=16))
    with spoilt(small, facts, change):
        for attempt in range(2):
            reply = ask(small, [facts], max_tokens=16)
            assert "compact" not in forms(reply)
            assert said(reply) == exact
            if (
                attempt == 0 and change != "gone"
            ):  # a missing file is not planned, a bad one is wiped
                problem = explain(small, reply, "ann")["kv"]["problem"]
                assert "could not be loaded" in problem
    assert said(ask(small, [facts], max_tokens=24)) == alone


def test_a_damaged_compact_fails_no_stream_and_no_other_request(small, facts, other, alone):
    exact = said(ask(small, [facts], memory={"kv": "exact"}, max_tokens=12))
    about = "What is the code word of Raven Bakery?"
    whole = said(ask(small, [other], question=about, max_tokens=12))

    def streamed(_: int) -> str:
        chunks = stream(small, facts, max_tokens=12)
        return "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)

    with spoilt(small, facts, "damaged"), ThreadPoolExecutor(4) as pool:
        lost = [pool.submit(streamed, number) for number in range(2)]
        kept = [pool.submit(ask, small, [other], question=about, max_tokens=12) for _ in range(2)]
        assert all(exact[:20] == each.result()[:20] for each in lost)
        assert all(forms(each.result()) == ["compact"] for each in kept)
        assert all(said(each.result())[:20] == whole[:20] for each in kept)
    assert said(ask(small, [facts], max_tokens=24)) == alone


def test_long_questions_are_computed_in_chunks_behind_a_compact(small, facts):
    first = ask(small, [facts], question=LONG, max_tokens=16)
    assert first.usage.prompt_tokens > CHUNK + BLOCKS
    assert forms(first) == ["compact"]
    empty_engine(small)
    again = ask(small, [facts], question=LONG, max_tokens=16)
    assert said(again) == said(first)
    assert "LYNX" in said(first)


def test_preempted_requests_load_it_again(small, facts):
    before = metric(small, "vllm:num_preemptions_total")
    questions = [f"{number}. {QUESTION} Then tell a long story." for number in range(8)]
    together = {"max_tokens": 220, "ignore_eos": True}
    with ThreadPoolExecutor(8) as pool:
        replies = list(
            pool.map(lambda text: ask(small, [facts], question=text, **together), questions)
        )
    assert metric(small, "vllm:num_preemptions_total") > before
    assert all(forms(reply) == ["compact"] for reply in replies)
    assert all(reply.usage.completion_tokens == 220 for reply in replies)
    for text, reply in zip(questions, replies, strict=True):
        by_itself = said(ask(small, [facts], question=text, max_tokens=4))
        assert said(reply)[:8] == by_itself[:8]


def test_several_choices_and_an_abandoned_stream(small, facts, alone):
    several = ask(small, [facts], n=3, temperature=0.7, max_tokens=12)
    assert len(several.choices) == 3
    assert forms(several) == ["compact"]
    chunks = stream(small, facts, max_tokens=200)
    next(iter(chunks))
    chunks.close()
    assert said(ask(small, [facts], max_tokens=24)) == alone


def test_two_compacts_in_any_order(small, facts, other):
    for cubes in ([facts, other], [other, facts]):
        reply = ask(small, cubes, max_tokens=16)
        assert forms(reply) == ["compact", "compact"]
        assert "LYNX" in said(reply)
        about = ask(small, cubes, question="What is the code word of Raven Bakery?", max_tokens=16)
        assert forms(about) == ["compact", "compact"]
        assert "OTTER" in said(about)


def test_text_in_front_of_a_compact_is_stored_first(small, facts):
    plain = make(
        small, "plain", "The ferry to Skye leaves at nine. It costs ten pounds.", shared=True
    )
    first = ask(small, [plain, facts], max_tokens=8)
    assert forms(first) != ["exact", "compact"], "its KV is not stored yet"

    def both() -> Any:
        reply = ask(small, [plain, facts], max_tokens=16)
        return reply if forms(reply)[1] == "compact" else None

    reply = wait_for(both, "the text's KV")
    assert forms(reply) == ["exact", "compact"]
    assert "LYNX" in said(reply)


def test_text_between_two_compacts_is_computed_behind_the_first(small, facts, other):
    """Nothing is built behind places in the background: it would compute them."""
    plain = make(small, "between", "The tram to Leith leaves at ten. It is free.", shared=True)
    cubes = [facts, plain, other]
    first = ask(small, cubes, max_tokens=16)
    assert forms(first)[0] == "compact"
    assert forms(first)[2] != "compact", "the text in front of it is not stored yet"

    def all_three() -> Any:
        reply = ask(small, cubes, max_tokens=16)
        return reply if forms(reply) == ["compact", "exact", "compact"] else None

    reply = wait_for(all_three, "the text's KV")
    empty_engine(small)
    again = ask(small, cubes, max_tokens=16)
    assert forms(again) == ["compact", "exact", "compact"]
    assert said(again) == said(reply)
    assert "LYNX" in said(again)
    about = ask(small, cubes, question="When does the tram to Leith leave?", max_tokens=16)
    assert "ten" in said(about).lower()


def test_a_system_message_and_a_conversation(small, facts):
    talk = [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Hello, who are you?"},
        {"role": "assistant", "content": "A helper."},
        {"role": "user", "content": QUESTION},
    ]

    def compacted() -> Any:
        reply = ask(small, [facts], messages=talk, max_tokens=16)
        return reply if forms(reply) == ["compact"] else None

    first = wait_for(compacted, "the KV of the system message")
    assert "LYNX" in said(first)
    empty_engine(small)
    again = ask(small, [facts], messages=talk, max_tokens=16)
    assert said(again) == said(first)


@pytest.mark.parametrize(
    "extra", [{"repetition_penalty": 1.3}, {"prompt_logprobs": 1}, {"echo": True}], ids=str
)
def test_replies_that_read_the_prompt_get_the_text(small, facts, extra):
    reply = ask(small, [facts], **extra)
    assert "compact" not in forms(reply)
    assert "text instead of compact" in explain(small, reply, "ann")["kv"]["problem"]


def test_a_prompt_of_the_same_ids_spoils_no_compact(small, facts):
    """A client that sends the ids of the places gets noise of its own."""
    empty_engine(small)
    reply = ask(small, [facts], max_tokens=16, return_token_ids=True)
    tokens = reply.model_extra["prompt_token_ids"]
    client = small.client()
    client.completions.create(
        model=MODEL,
        prompt=tokens,
        max_tokens=4,
        user="ann",
        extra_body={"memory": {"enabled": False}},
    )
    assert said(ask(small, [facts], max_tokens=16)) == said(reply)
    empty_engine(small)
    client.completions.create(model=MODEL, prompt=tokens, max_tokens=4, user="ann")
    after = ask(small, [facts], max_tokens=16)
    assert forms(after) == ["compact"]
    assert said(after) == said(reply)


def test_other_routes_use_it_too(small, facts):
    memory = {"cubes": [facts], "retrieve": False, "write": False, "kv": "compact"}
    with small.http(None, "ann") as http:
        replies = [
            http.post(
                "/v1/responses",
                json={"model": MODEL, "input": QUESTION, "temperature": 0, "memory": memory},
            ),
            http.post(
                "/v1/messages",
                json={
                    "model": MODEL,
                    "max_tokens": 16,
                    "temperature": 0,
                    "messages": [{"role": "user", "content": QUESTION}],
                    "memory": memory,
                },
            ),
        ]
    for reply in replies:
        assert reply.status_code == 200, reply.text
        assert "LYNX" in reply.text


def test_a_gate_refuses_what_says_something_else(small):
    cube = make(small, "too-short", FACTS.replace("Orion", "Vesta"), shared=True)
    job = compact(small, cube, ratio=40, max_kl=0.05)
    assert job["state"] == "refused"
    assert "KL" in job["report"]["reasons"][0]
    assert "compact" not in forms(ask(small, [cube]))


def test_a_change_takes_it_away(small):
    cube = make(small, "changing", f"{FACTS} It will change.", shared=True)
    url = f"/v1/memory/cubes/{cube}"
    with small.http() as http:
        assert compact(small, cube, ratio=2)["state"] == "done"
        shown = http.get(f"{url}/activation").json()["compact"]
        assert shown["tokens"] > shown["places"] > 0
        paths = files(small, cube)
        assert paths
        body = {"payload": {"type": "explicit", "content": f"{FACTS} It has changed."}}
        assert http.patch(url, json=body).status_code == 200
        wait_for(lambda: not any(path.exists() for path in paths), "the end of the old compact")
    assert "compact" not in forms(ask(small, [cube]))


def test_a_deletion_takes_it_away(small, other):
    paths = files(small, other)
    assert paths
    with small.http() as http:
        assert http.delete(f"/v1/memory/cubes/{other}").status_code in (200, 204)
    wait_for(lambda: not any(path.exists() for path in paths), "no file")
    assert not [each for each in notes(small).values() if each.cube.startswith(other)]


def test_it_survives_a_restart(small, facts, alone):
    small.kill(signal.SIGKILL)
    small.start()
    reply = ask(small, [facts], max_tokens=24)
    assert forms(reply) == ["compact"]
    assert said(reply) == alone
