"""Limits counted by several processes in Redis, and alone while it is away."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid

import pytest
import redis

from memos_vllm.config.limits import LimitsPolicyConfig
from memos_vllm.governance.limits.windows import Windows, owner_of
from tests.engine.harness import free_port, wait_for

REDIS = os.environ.get("MEMOS_TEST_REDIS", "redis://127.0.0.1:6379/9")


@pytest.fixture
def owner():
    """An owner of its own in the shared store."""
    try:
        store = redis.Redis.from_url(REDIS, socket_connect_timeout=2)
        store.ping()
    except redis.RedisError as error:
        pytest.skip(f"no Redis at {REDIS} (MEMOS_TEST_REDIS): {error}")
    name = f"t:{uuid.uuid4().hex}"
    yield name
    for key in store.scan_iter(f"*{name}*"):
        store.delete(key)


def windows(url=REDIS, **config):
    # No slow machine exceeds this timeout; tests of an absent storage do not wait for it.
    config = {"storage_timeout_seconds": 20.0, **config}
    return Windows(LimitsPolicyConfig(storage_url=url, **config))


@pytest.mark.parametrize("strategy", ["sliding-window-counter", "moving-window", "fixed-window"])
async def test_two_processes_count_requests_together(owner, strategy):
    one, other = windows(strategy=strategy), windows(strategy=strategy)
    asked = [await each.request(owner, 3) for each in (one, other, one, other)]
    assert [standing.is_within for standing in asked] == [True, True, True, False]
    assert [standing.remaining for standing in asked] == [2, 1, 0, 0]
    assert 0 < asked[-1].reset_seconds <= 60


async def test_two_processes_reserve_and_settle_tokens_together(owner):
    one, other = windows(), windows()
    first, taken = await one.reserve(owner, 100, 80)
    second, nothing = await other.reserve(owner, 100, 80)
    assert (first.is_within, second.is_within, nothing.tokens) == (True, False, 0)
    await one.settle(owner, taken, 10)
    third, _ = await other.reserve(owner, 100, 80)
    assert third.is_within
    assert third.remaining <= 10


async def test_reservations_at_once_never_exceed_the_limit(owner):
    both = [windows(), windows()]
    asked = await asyncio.gather(*(both[n % 2].reserve(owner, 100, 10) for n in range(30)))
    assert 1 <= sum(standing.is_within for standing, _ in asked) <= 10


async def test_while_the_storage_is_away_each_process_counts_alone(owner, caplog):
    away = windows(f"redis://127.0.0.1:{free_port()}/0")
    asked = [await away.request(owner, 2) for _ in range(3)]
    assert [standing.is_within for standing in asked] == [True, True, False]
    standing, taken = await away.reserve(owner, 100, 80)
    assert standing.is_within
    await away.settle(owner, taken, 10)
    assert (await away.reserve(owner, 100, 80))[0].is_within
    assert caplog.text.count("counts alone") == 1


async def test_a_storage_that_hangs_costs_its_timeout_once(owner):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        hangs = windows(url, storage_timeout_seconds=0.1)
        assert (await hangs.request(owner, 2)).is_within
        hangs._timeout = 600.0  # the next one does not try it
        assert (await hangs.request(owner, 2)).is_within


async def test_a_reservation_in_the_shared_storage_is_not_refunded_to_the_own_one(owner):
    one = windows()
    _, taken = await one.reserve(owner, 100, 90)
    one._alone_until = 2**40  # the storage has gone away meanwhile
    await one.settle(owner, taken, 0)
    asked = [await one.reserve(owner, 100, 60) for _ in range(2)]
    assert [standing.is_within for standing, _ in asked] == [True, False]


async def test_the_storage_is_used_again_when_it_is_back(owner):
    one = windows()
    one._alone_until = asyncio.get_running_loop().time() + 0.2
    await one.request(owner, 5)
    wait_for(lambda: not one._is_alone(), "the storage", 5)
    assert (await one.request(owner, 5)).remaining == 4
    assert (await windows().request(owner, 5)).remaining == 3


def test_people_are_stored_as_digests_of_their_tenant():
    assert "ada" not in owner_of("acme", "ada")
    assert owner_of("acme", "ada") != owner_of("globex", "ada")
    assert owner_of("acme", "\udc80") != owner_of("acme", "\udc81")
