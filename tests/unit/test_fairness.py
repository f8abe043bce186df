"""The queue in front of the engine: virtual token counters, turns, and what happens to who goes away."""

from __future__ import annotations

import asyncio

import pytest

from memos_vllm.config.limits import FairnessConfig
from memos_vllm.errors import Overloaded, RequestsLimited
from memos_vllm.governance.limits.fairness import LOWEST_PRIORITY, FairQueue


class Load:
    """Requests that run until they are told to end; notes the order in which they began."""

    def __init__(self, *, running=4, most=64, **config):
        self.queue = FairQueue(FairnessConfig(running=running, **config))
        self.queue.attach(max_num_seqs=most, on_cpu=True, has_priorities=True)
        self.began: list[str] = []
        self.running: list[tuple[str, asyncio.Event]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, tenant, count=1, prompt=10, reply=0):
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._request(tenant, prompt, reply)))
        await settled()

    async def _request(self, tenant, prompt, reply):
        async with self.queue.turn(tenant, prompt) as turn:
            self.began.append(tenant)
            over = asyncio.Event()
            self.running.append((tenant, over))
            await over.wait()
            turn.served(prompt, reply)

    async def end(self, count=1):
        for _ in range(count):
            _, over = self.running.pop(0)
            over.set()
            await settled()

    def counter(self, tenant):
        return self.queue._shares[tenant].counter


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_tenant_that_is_alone_is_not_held_back():
    load = Load(running=4, most=64)
    await load.send("a", 30)
    assert len(load.began) == 30


async def test_a_tenant_with_nothing_in_the_engine_is_let_in_at_once():
    load = Load(running=4)
    await load.send("a", 30)
    await load.send("b")
    assert load.began[-1] == "b"
    # The others of the big tenant wait until no more than `running` are left.
    await load.send("a", 20)
    assert load.began.count("a") == 30
    await load.end(26)
    assert load.began.count("a") == 30
    await load.end(2)
    assert load.began.count("a") == 31


async def test_many_small_tenants_fill_the_batch_and_a_big_one_is_held():
    load = Load(running=8, most=32, hold_seconds=60)
    for tenant in ("a", "b", "c", "d"):
        await load.send(tenant, 4)
    assert len(load.began) == 16
    await load.send("a", 30)
    assert load.began.count("a") == 4
    for tenant in ("e", "f", "g", "h", "i"):
        await load.send(tenant, 4)
    # 32 are as many as the engine takes; a tenant's first request goes in front of them all the same.
    assert [load.began.count(tenant) for tenant in "efghi"] == [4, 4, 4, 4, 1]


async def test_the_tenant_that_was_served_least_is_next():
    load = Load(running=2, hold_seconds=60)
    await load.send("a", 2, prompt=1000)
    await load.send("b", 1, prompt=10)
    await load.send("a", 3, prompt=1000)
    await load.send("b", 3, prompt=10)
    assert load.began == ["a", "a", "b"]
    await load.end(2)
    assert load.began[3:] == ["a"]  # b came with as much as a had
    await load.end(3)
    assert load.began[3:6] == ["a", "b", "b"]


async def test_weights_divide_the_charge_and_the_places():
    load = Load(running=4, weights={"a": 3.0})
    await load.send("a", 4, prompt=300)
    await load.send("b", 4, prompt=300)
    assert load.counter("a") == 400
    # One of four places is b's share.
    assert load.began.count("b") == 1


async def test_a_tenant_that_returns_has_saved_up_nothing():
    load = Load(running=2, hold_seconds=60)
    await load.send("b", prompt=1)
    await load.end()
    await load.send("a", 2, prompt=5000)
    await load.send("a", 2, prompt=5000)
    await load.send("b", prompt=1)
    assert load.counter("b") >= 10_000


async def test_a_prompt_is_charged_once_and_what_was_not_used_comes_back():
    queue = FairQueue(FairnessConfig(input_weight=1, output_weight=2))
    async with queue.turn("a", 100) as turn:
        assert queue._shares["a"].counter == 100
        turn.served(40, 5)  # a shorter prompt than expected
        assert queue._shares["a"].counter == 110
    assert queue._shares["a"].counter == 50
    async with queue.turn("a", 10) as turn:
        turn.served(110, 0)
    assert queue._shares["a"].counter == 160


async def test_requests_that_run_and_are_not_served_starve_nobody():
    """Attack: streams that are not read keep the counter of their tenant small."""
    load = Load(running=4, hold_seconds=60)
    await load.send("a", 30, prompt=1)
    await load.send("a", 30, prompt=1)
    for _ in range(20):
        await load.send("b", 2, prompt=1000)
        began = [over for tenant, over in load.running if tenant == "b"]
        assert len(began) == 2
        load.running = [each for each in load.running if each[0] != "b"]
        for over in began:
            over.set()
        await settled()


async def test_who_goes_away_gives_its_place_back_at_every_moment():
    load = Load(running=1, hold_seconds=60)
    await load.send("a")
    await load.send("b")
    await load.send("a")
    waiting = load.tasks[-1]
    waiting.cancel()
    await settled()
    assert load.queue._waiting == 0
    # Let in and cancelled before it could begin.
    await load.send("a", 2)
    first = load.tasks[-2]
    load.running.pop(0)[1].set()
    load.running.pop(0)[1].set()
    await asyncio.sleep(0)
    first.cancel()
    await settled()
    while load.running:
        await load.end()
    await asyncio.gather(*load.tasks, return_exceptions=True)
    assert load.queue._running == 0
    assert load.queue._waiting == 0
    assert all(not share.running and not share.waiting for share in load.queue._shares.values())


async def test_waiting_requests_are_bounded_in_number_and_in_time():
    load = Load(running=1, waiting=3, waiting_per_tenant=2, wait_seconds=0.05, hold_seconds=60)
    await load.send("a")
    await load.send("b")
    await load.send("a", 2)
    with pytest.raises(RequestsLimited):
        await load.queue.turn("a", 1).__aenter__()
    await load.send("b")
    with pytest.raises(Overloaded):
        await load.queue.turn("b", 1).__aenter__()
    await asyncio.sleep(0.1)
    late = [task for task in load.tasks if task.done()]
    assert len(late) == 3
    assert all(isinstance(task.exception(), Overloaded) for task in late)
    assert load.queue._waiting == 0


async def test_priorities_follow_the_counters_and_background_comes_last():
    load = Load()
    await load.send("a", prompt=500)
    await load.send("b", prompt=5)
    await load.send("a", prompt=500)
    first, second = load.queue.priority("b", False), load.queue.priority("a", False)
    assert first < second < load.queue.priority("a", True) == LOWEST_PRIORITY
    assert load.queue.priority("stranger", False) <= first
    assert LOWEST_PRIORITY < 2**63


async def test_an_engine_without_priorities_gets_none():
    queue = FairQueue(FairnessConfig())
    assert queue.priority("a", True) == 0
    queue.attach(max_num_seqs=8, on_cpu=False, has_priorities=False)
    assert queue.priority("a", True) == 0


async def test_switched_off_all_run_and_have_one_priority():
    load = Load(running=1, enabled=False)
    await load.send("a", 5, prompt=100)
    await load.send("b", 5)
    assert len(load.began) == 10
    assert load.queue.priority("a", False) == load.queue.priority("b", False) == 0
    assert load.queue.priority("a", True) == LOWEST_PRIORITY
