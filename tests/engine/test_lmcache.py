"""Conversations in LMCache while its server is down, stopped, killed or restarted.

Tests that every tier passes are in test_conversations.
"""

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
from tests.engine.kv import RULES, make, same
from tests.engine.lmcache import CHUNK, FAILED_LOADS, Setup
from tests.engine.tiers import talk_of

pytest.importorskip("lmcache")

LOADED = "memos_kv_lmcache_loaded_tokens_total"
UNANSWERED = "memos_kv_lmcache_unanswered_total"


@pytest.fixture
def setup(lmcache_tier: Setup) -> Setup:
    return lmcache_tier


def test_a_server_that_starts_after_the_engine_is_used(lmcache_engine):
    alone, talk = lmcache_engine, talk_of("absent")
    if alone.lmcache.running or alone.saved():  # another test came first
        alone.lmcache.kill()
        alone.server.kill(signal.SIGKILL)
        alone.server.start()
    first = alone.say("ann", talk)
    alone.empty_engine()
    again = alone.say("ann", talk)
    assert cached_tokens(again) == 0
    assert same(again, first)
    wait_for(lambda: alone.metric(UNANSWERED) >= 2, "the metric")
    alone.lmcache.start()

    def loaded() -> Any:
        alone.empty_engine()
        reply = alone.say("ann", talk)
        return cached_tokens(reply) and reply

    reply = wait_for(loaded, "a load", 60)
    assert same(reply, first)


def test_the_longest_stored_prefix_is_loaded(setup):
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
def test_without_its_server_a_reply_is_computed_and_the_same(setup, away):
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
        assert time.monotonic() - started < 60
        assert same(again, reply)
        assert cached_tokens(again) == 0
        setup.empty_engine()
        assert same(setup.say("hal", talk), reply)
        wait_for(
            lambda: setup.metric(UNANSWERED) + setup.metric(FAILED_LOADS) > before, "the metric"
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


def test_a_restart_of_its_server_between_heartbeats(setup):
    """The new server does not know the engine, which has not noticed the restart."""
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


def test_its_server_is_killed_during_a_request(setup):
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


def keys_of(setup: Setup, cube: str) -> list[dict[str, Any]]:
    """LMCache's keys of a cube, as the engine noted them."""
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


def test_a_deletion_is_completed_when_its_server_is_back(setup):
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
    """Port of a new Redis server. Afterwards LMCache is down; its next start uses files."""
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
    """Keys of ours, by Redis's protocol: no other test needs its client package."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"KEYS *\r\n")
        connection.settimeout(1)
        held = b""
        with contextlib.suppress(TimeoutError):
            while part := connection.recv(65536):
                held += part
    return [line for line in held.decode().splitlines() if line.startswith("memos-")]


def test_conversations_are_stored_in_redis_and_deleted_from_it(setup, redis):
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
