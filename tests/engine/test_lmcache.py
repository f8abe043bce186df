"""Conversations in LMCache: over restarts, for their person alone, and whatever its server does."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.harness import cached_tokens, free_port, wait_for
from tests.engine.kv import RULES, make, same, text_of
from tests.engine.lmcache import CHUNK, SAVED, Setup, Talk

pytest.importorskip("lmcache")

LOADED = "memos_kv_lmcache_loaded_tokens_total"
FAILED_LOADS = "memos_kv_lmcache_load_failures_total"
FAILED_SAVES = "memos_kv_lmcache_save_failures_total"
UNANSWERED = "memos_kv_lmcache_unanswered_total"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """LMCache is not there while the engine starts."""
    made = Setup(tmp_path_factory.mktemp("lmcache"))
    try:
        with made.server.running():
            yield made
    finally:
        made.lmcache.close()


@pytest.fixture
def setup(alone: Setup) -> Setup:
    """With LMCache."""
    if not alone.lmcache.running:
        alone.lmcache.start()
    return alone


def talk_of(name: str, rules: int = 20) -> Talk:
    return [{"role": "user", "content": f"{name}. " + " ".join(RULES[:rules]) + " Say one rule."}]


def going_on(talk: Talk, reply: Any) -> Talk:
    answer = {"role": "assistant", "content": text_of(reply)}
    return [*talk, answer, {"role": "user", "content": "And which one is next?"}]


def test_absent_at_start_and_used_once_it_is_there(alone):
    talk = talk_of("absent")
    first = alone.say("ann", talk)
    alone.empty_engine()
    again = alone.say("ann", talk)
    assert cached_tokens(again) == 0
    assert same(again, first)
    wait_for(lambda: alone.metric(UNANSWERED) >= 2, "the metric", 15)
    alone.lmcache.start()

    def loaded() -> Any:
        alone.empty_engine()
        reply = alone.say("ann", talk)
        return cached_tokens(reply) and reply

    reply = wait_for(loaded, "a load", 60)
    assert same(reply, first)


def test_a_conversation_goes_on_after_a_restart_of_the_engine(setup):
    talk = talk_of("restart")
    reply = setup.kept("ben", talk, max_tokens=16)
    tokens = reply.usage.prompt_tokens
    talk = going_on(talk, reply)
    second = setup.say("ben", talk, max_tokens=16)
    assert cached_tokens(second) > 300
    setup.server.kill(signal.SIGKILL)
    setup.server.start()

    def loaded() -> Any:
        reply = setup.say("ben", talk, max_tokens=16)
        return cached_tokens(reply) and reply

    third = wait_for(loaded, "a load")
    assert cached_tokens(third) >= tokens - tokens % CHUNK - CHUNK
    assert same(third, second)
    assert setup.metric(LOADED) > 300


def test_what_was_loaded_gives_the_very_numbers_of_the_prefix_cache(setup):
    talk = talk_of("exact")
    options = {"logprobs": True, "top_logprobs": 5, "max_tokens": 16}
    first = setup.kept("cid", talk, **options)
    tokens = first.usage.prompt_tokens
    talk[0]["content"] += " a" * (-tokens % CHUNK + 3)  # a border of chunks is one of blocks
    setup.kept("cid", talk, **options)
    warm = setup.say("cid", talk, **options)
    setup.empty_engine()
    loaded = setup.say("cid", talk, **options)
    assert cached_tokens(loaded) == cached_tokens(warm) > 300
    assert loaded.choices[0].logprobs == warm.choices[0].logprobs


def test_it_is_nobody_else_s(setup):
    talk = talk_of("mine")
    first = setup.kept("dora", talk)
    setup.empty_engine()
    assert cached_tokens(setup.say("emil", talk)) == 0, "another person of the tenant"
    assert cached_tokens(setup.say("dora", talk, setup.globex)) == 0, "the same name elsewhere"
    assert cached_tokens(setup.say("dora", talk, cache_salt="narrower")) == 0
    setup.empty_engine()
    mine = setup.say("dora", talk)
    assert cached_tokens(mine) > 300
    assert same(mine, first)


def test_what_must_not_be_kept_is_neither_saved_nor_loaded(setup):
    saved = setup.metric(SAVED)
    talk = talk_of("not kept")
    setup.say("fay", talk, memory={"write": False})
    setup.say("fay", talk, store=False)
    time.sleep(2)
    assert setup.metric(SAVED) == saved
    setup.kept("fay", talk)
    setup.empty_engine()
    assert cached_tokens(setup.say("fay", talk, memory={"write": False})) == 0


def test_the_longest_that_is_kept_is_loaded(setup):
    """A cube from our own files, a conversation behind it from LMCache."""
    cube = make(setup.server, "rules", " ".join(RULES), setup.acme, as_person="gus", person="gus")
    memory = {"cubes": [cube], "retrieve": False}
    talk = [{"role": "user", "content": "Rules of the house: " + " ".join(RULES[:15])}]
    reply = setup.kept("gus", talk, memory=memory)
    setup.empty_engine()
    again = setup.say("gus", talk, memory=memory)
    assert cached_tokens(again) > reply.usage.prompt_tokens - 2 * CHUNK
    assert same(again, reply)
    from_lmcache = setup.metric(LOADED)

    def cube_alone() -> bool:  # its files are written beside LMCache's
        setup.empty_engine()
        other = setup.say("gus", [{"role": "user", "content": "Hello?"}], memory=memory)
        return cached_tokens(other) > 300

    wait_for(cube_alone, "the cube alone")
    assert setup.metric(LOADED) == from_lmcache
    setup.empty_engine()


@pytest.mark.parametrize("away", ["killed", "held"])
def test_without_its_server_the_answer_is_the_same_and_computed(setup, away):
    talk = talk_of(away)
    reply = setup.kept("hal", talk)
    setup.empty_engine()
    before = setup.metric(UNANSWERED) + setup.metric(FAILED_LOADS)
    if away == "killed":
        setup.lmcache.kill()
    else:
        setup.lmcache.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        again = setup.say("hal", talk)
        assert time.monotonic() - started < 20
        assert same(again, reply)
        assert cached_tokens(again) == 0
        setup.empty_engine()
        assert same(setup.say("hal", talk), reply)
        wait_for(
            lambda: setup.metric(UNANSWERED) + setup.metric(FAILED_LOADS) > before, "the metric", 15
        )
    finally:
        if away == "killed":
            setup.lmcache.start()
        else:
            setup.lmcache.signal(signal.SIGCONT)

    def loaded() -> Any:
        setup.empty_engine()
        return cached_tokens(setup.say("hal", talk)) > 300

    wait_for(loaded, "a load from the server that came back", 60)


def test_a_quick_restart_of_its_server(setup):
    """Faster than a heartbeat: the new server does not know the engine."""
    talk = talk_of("quick")
    reply = setup.kept("ida", talk)
    for _ in range(2):
        setup.empty_engine()
        setup.lmcache.kill()
        setup.lmcache.start()
        assert same(setup.say("ida", talk), reply)
        new = talk_of(f"quick {time.monotonic()}")
        assert same(setup.say("ida", new), setup.say("jon", new))

    def loaded() -> Any:
        setup.empty_engine()
        again = setup.say("ida", talk)
        return cached_tokens(again) > 300 and again

    assert same(wait_for(loaded, "a load", 60), reply)


def test_killed_while_it_works(setup):
    """Between a request's arrival and its reply, at several moments."""
    for delay in (0.05, 0.15, 0.4):
        talk = talk_of(f"working {delay}")
        right = setup.kept("kim", talk)
        setup.empty_engine()
        timer = threading.Timer(delay, setup.lmcache.kill)
        timer.start()
        assert same(setup.say("kim", talk), right)
        timer.join()
        setup.lmcache.start()


def test_damaged_objects_are_computed(setup):
    talk = talk_of("damaged")
    known = set(setup.lmcache.objects())
    reply = setup.kept("lea", talk)
    made = wait_for(lambda: set(setup.lmcache.objects()) - known, "objects")
    setup.lmcache.kill()  # what its memory holds is not damaged
    for path in made:
        held = bytearray(path.read_bytes())
        held[len(held) // 2] ^= 0x55
        path.write_bytes(held)
    setup.lmcache.start()
    time.sleep(5)
    setup.empty_engine()
    again = setup.say("lea", talk)
    assert cached_tokens(again) == 0
    assert same(again, reply)


def keys_of(setup: Setup, cube: str) -> list[dict[str, Any]]:
    """What is noted of a cube."""
    from memos_vllm.activation.tombstones import short

    folder = setup.server.home / "kv" / "lmcache" / "cubes" / short(cube)
    with contextlib.suppress(FileNotFoundError):
        return [
            json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines()
        ]
    return []


def holding(setup: Setup, keys: list[dict[str, Any]]) -> list[Any]:
    names = {key["chunk_hash_hex"] + "@" + key["cache_salt"] for key in keys}
    return [path for path in setup.lmcache.objects() if path.stem.split("@", 3)[3] in names]


@pytest.mark.parametrize("change", ["delete", "update"])
def test_a_deleted_cube_leaves_no_object(setup, change):
    cube = make(
        setup.server,
        f"doomed-{change}",
        f"{change}. " + " ".join(RULES),
        setup.acme,
        as_person="mia",
        person="mia",
    )
    memory = {"cubes": [cube], "retrieve": False}
    talk = talk_of("doomed", 5)
    setup.kept("mia", talk, memory=memory)
    keys = keys_of(setup, cube)
    assert len(keys) > 10
    made = wait_for(
        lambda: len(found := holding(setup, keys)) == len(keys) and found, "objects in files"
    )
    samples = [path.read_bytes()[2048:4096] for path in made]
    changed(setup, cube, change)
    assert holding(setup, keys) == [], "when the call returns"
    held = [path.read_bytes() for path in setup.lmcache.files.rglob("*") if path.is_file()]
    assert not any(sample in each for each in held for sample in samples)
    assert setup.lmcache.in_memory(keys) == 0
    assert keys_of(setup, cube) == []


def changed(setup: Setup, cube: str, change: str) -> None:
    with setup.server.http(setup.acme, "mia") as http:
        if change == "delete":
            reply = http.delete(f"/v1/memory/cubes/{cube}")
        else:
            patch = {"payload": {"type": "explicit", "format": "text", "content": "Short now."}}
            reply = http.patch(f"/v1/memory/cubes/{cube}", json=patch)
    assert reply.is_success, reply.text


def test_a_deletion_without_its_server_is_done_when_it_is_back(setup):
    cube = make(
        setup.server,
        "later",
        "later. " + " ".join(RULES),
        setup.acme,
        as_person="mia",
        person="mia",
    )
    setup.kept("mia", talk_of("later", 5), memory={"cubes": [cube], "retrieve": False})
    keys = keys_of(setup, cube)
    wait_for(lambda: len(holding(setup, keys)) == len(keys), "objects in files")
    setup.lmcache.kill()
    changed(setup, cube, "delete")
    assert holding(setup, keys), "its files are its own"
    setup.lmcache.start()
    wait_for(lambda: not holding(setup, keys), "the deletion", 120)


@pytest.fixture
def redis(setup: Setup, tmp_path: Any) -> Iterator[int]:
    """A Redis of our own; its port. LMCache goes back to its files afterwards."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server")
    port = free_port()
    options = ("--port", str(port), "--save", "", "--dir", str(tmp_path), "--bind", "127.0.0.1")
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        setup.lmcache.kill()
        process.kill()
        process.wait()


def redis_keys(port: int) -> list[str]:
    """By Redis's own protocol: its package is not needed for anything else."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"KEYS *\r\n")
        connection.settimeout(1)
        held = b""
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(65536):
                held += part
    return [line for line in held.decode().splitlines() if line.startswith("memos-")]


def test_redis_keeps_conversations_too_and_forgets_them(setup, redis):
    setup.lmcache.kill()
    setup.lmcache.start(type="resp", host="127.0.0.1", port=redis)
    cube = make(
        setup.server, "in-redis", " ".join(RULES), setup.acme, as_person="ned", person="ned"
    )
    memory = {"cubes": [cube], "retrieve": False}
    talk = talk_of("redis")
    reply = setup.kept("ned", talk, memory=memory)
    keys = keys_of(setup, cube)
    wait_for(lambda: len(redis_keys(redis)) == len(keys), "objects in Redis")
    setup.lmcache.kill()
    setup.lmcache.start(type="resp", host="127.0.0.1", port=redis)

    def loaded() -> Any:
        setup.empty_engine()
        before = setup.metric(LOADED)
        again = setup.say("ned", talk, memory=memory)
        return setup.metric(LOADED) > before and again

    assert same(wait_for(loaded, "a load from Redis", 60), reply)
    with setup.server.http(setup.acme, "ned") as http:
        assert http.delete(f"/v1/memory/cubes/{cube}").is_success
    assert redis_keys(redis) == []
