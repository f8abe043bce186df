"""Limits of tenants and people over HTTP, without an engine."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from memos_vllm.api.app import attach
from memos_vllm.api.identity import Authenticator
from memos_vllm.config.limits import LimitsPolicyConfig, TenantLimits
from memos_vllm.errors import ConfigError
from memos_vllm.governance.limits.limiter import duration
from memos_vllm.governance.limits.meter import METER
from memos_vllm.governance.limits.policy import LimitsPolicy
from memos_vllm.governance.limits.windows import Windows
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config

CHAT = "/v1/chat/completions"


class Site:
    """The app with a route in place of the engine's, and a key per tenant."""

    def __init__(self, home, **governance):
        http = governance.pop("http", {})
        self.system = MemorySystem(make_config(home, governance=governance, http=http)).open()
        self.keys = {
            tenant: self.system.keys.create(tenant, Role.WRITER)[1] for tenant in ("acme", "globex")
        }
        self.app = FastAPI()
        self.release = asyncio.Event()
        self.at_work = 0
        self.changed = asyncio.Event()

        @self.app.post(CHAT)
        async def serve(request: Request):
            body = await request.json()
            self.at_work += 1
            self.changed.set()
            try:
                if body.get("wait"):
                    await self.release.wait()
                meter = METER.get()
                assert meter is not None
                meter.count(body.get("prompt_tokens", 0), body.get("reply_tokens", 0))
                if body.get("fail"):
                    raise RuntimeError("the engine failed")
            finally:
                self.at_work -= 1
            if body.get("stream"):
                return StreamingResponse(self._chunks(meter), media_type="text/event-stream")
            return {"choices": []}

        attach(
            self.app, self.system, Authenticator(self.system.config.governance, self.system.keys)
        )

    async def _chunks(self, meter):
        for _ in range(10):
            meter.count(0, 1)
            yield "data: x\n\n"

    async def working(self, count):
        """Wait until so many requests are in the route."""
        async with asyncio.timeout(10):
            while self.at_work < count:
                self.changed.clear()
                await self.changed.wait()

    def client(self, tenant="acme"):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


@pytest.fixture
def site(tmp_path):
    made = []

    def make(**governance):
        made.append(Site(tmp_path, **governance))
        return made[-1]

    yield make
    for one in made:
        one.system.close()


async def ask(client, **body):
    return await client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}], **body})


async def test_requests_a_minute_of_a_tenant_are_refused_in_openais_words(site):
    one = site(limits={"requests_per_minute": 2})
    async with one.client() as acme, one.client("globex") as globex:
        replies = [await ask(acme) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert replies[0].headers["x-ratelimit-limit-requests"] == "2"
        assert [r.headers["x-ratelimit-remaining-requests"] for r in replies] == ["1", "0", "0"]
        refused = replies[2]
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert re.fullmatch(r"(\d+m)?[\d.]+(s|ms)", refused.headers["x-ratelimit-reset-requests"])
        assert (await ask(globex)).status_code == 200
        # The Memory API counts, too; what needs no key does not.
        assert (await acme.get("/v1/memory/cubes")).status_code == 429
        assert (await acme.get("/docs")).status_code == 200


async def test_without_limits_there_are_no_headers(site):
    async with site().client() as acme:
        reply = await ask(acme)
        assert reply.status_code == 200
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


async def test_a_tenants_own_limits_replace_those_of_all(site):
    own = {"acme": {"requests_per_minute": None}}
    one = site(limits={"requests_per_minute": 1, "tenants": own})
    async with one.client() as acme, one.client("globex") as globex:
        assert [(await ask(acme)).status_code for _ in range(3)] == [200, 200, 200]
        assert [(await ask(globex)).status_code for _ in range(2)] == [200, 429]


def test_a_policy_inherits_what_a_tenant_does_not_name():
    own = {"acme": TenantLimits(cubes=5), "globex": TenantLimits(items=None)}
    policy = LimitsPolicy(LimitsPolicyConfig(items=9, cubes=1, tenants=own))
    assert (policy.limits_of("acme").cubes, policy.limits_of("acme").items) == (5, 9)
    assert (policy.limits_of("globex").cubes, policy.limits_of("globex").items) == (1, None)
    assert (policy.limits_of("other").cubes, policy.limits_of("other").items) == (1, 9)


async def test_people_are_counted_by_the_name_in_the_body_or_the_header(site):
    one = site(limits={"person_requests_per_minute": 1})
    async with one.client() as acme:
        assert (await ask(acme, user="ada")).status_code == 200
        assert (await ask(acme, user="ada")).status_code == 429
        assert (await ask(acme, user="grace")).status_code == 200
        assert (await ask(acme, user="ada", safety_identifier="zoë/…")).status_code == 200
        named = {"x-memos-user": "grace"}
        reply = await acme.get("/v1/memory/cubes", headers=named)
        assert reply.status_code == 429
        assert (await ask(acme)).status_code == 200  # names no person


async def test_tokens_are_reserved_before_and_settled_after(site):
    one = site(limits={"tokens_per_minute": 1000})
    async with one.client() as acme:
        reply = await ask(acme, max_tokens=900, prompt_tokens=50, reply_tokens=50)
        assert reply.status_code == 200
        assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 100
        # Settled: 100 of 1,000 are used, not 900.
        reply = await ask(acme, max_tokens=800, prompt_tokens=700, reply_tokens=700)
        assert reply.status_code == 200
        # Used more than was expected: the window is overdrawn.
        refused = await ask(acme, max_tokens=1)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "tokens"
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_a_failed_request_and_a_stream_settle_what_they_used(site):
    one = site(limits={"tokens_per_minute": 1000})
    async with one.client() as acme:
        assert (await ask(acme, max_tokens=990, fail=True)).status_code == 500
        reply = await ask(acme, max_tokens=900, stream=True)
        assert reply.text.count("data:") == 10
        reply = await ask(acme, max_tokens=1)
        assert (
            1000 - int(reply.headers["x-ratelimit-remaining-tokens"]) == 10 + 2
        )  # and the reserved


async def test_choices_are_reserved_each(site):
    one = site(limits={"tokens_per_minute": 1000})
    async with one.client() as acme:
        reply = await ask(acme, max_tokens=100, n=4)
        assert int(reply.headers["x-ratelimit-remaining-tokens"]) in (599, 600)
        reply = await ask(acme, max_tokens=2000)  # more than the limit: as much as there is
        assert reply.status_code == 200


async def test_requests_at_a_time_are_bounded_and_freed(site):
    one = site(limits={"concurrent_requests": 2, "person_concurrent_requests": 1})
    async with one.client() as acme, one.client("globex") as globex:
        first = asyncio.create_task(ask(acme, user="ada", wait=True))
        await one.working(1)
        assert (await ask(acme, user="ada")).status_code == 429
        second = asyncio.create_task(ask(acme, user="grace", wait=True))
        await one.working(2)
        refused = await ask(acme, user="edsger")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert (await ask(globex)).status_code == 200
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert (await ask(acme, user="grace")).status_code == 200
        one.release.set()
        assert (await first).status_code == 200
        assert (await ask(acme, user="ada", fail=True)).status_code == 500
        assert (await ask(acme, user="ada")).status_code == 200


async def test_tokens_leave_the_window_as_it_passes(monkeypatch):
    moment = [1_700_000_040.0]  # the beginning of a minute
    monkeypatch.setattr("memos_vllm.governance.limits.windows.time.time", lambda: moment[0])
    windows = Windows(LimitsPolicyConfig())
    standing, taken = await windows.reserve("t:a", 100, 100)
    assert standing.is_within
    await windows.settle("t:a", taken, 100)
    refused, nothing = await windows.reserve("t:a", 100, 50)
    assert not refused.is_within
    assert nothing.tokens == 0
    assert 85 <= refused.reset_seconds <= 95  # half of the minute after
    moment[0] += refused.reset_seconds + 0.5
    standing, _ = await windows.reserve("t:a", 100, 50)
    assert standing.is_within


async def test_a_refund_goes_to_the_window_that_paid(monkeypatch):
    moment = [1_700_000_040.0]
    monkeypatch.setattr("memos_vllm.governance.limits.windows.time.time", lambda: moment[0])
    windows = Windows(LimitsPolicyConfig())
    _, old = await windows.reserve("t:a", 100, 90)
    moment[0] += 200  # that window counts no longer
    _, new = await windows.reserve("t:a", 100, 60)
    await windows.settle("t:a", old, 0)
    standing, _ = await windows.reserve("t:a", 100, 50)
    assert not standing.is_within, "an old refund paid for new tokens"
    await windows.settle("t:a", new, 60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (59.6, "59.6s"), (360, "6m0s"), (3605, "1h0m5s")],
)
def test_durations_are_written_as_openai_does(seconds, text):
    assert duration(seconds) == text


def test_an_unknown_storage_is_refused_at_the_start():
    with pytest.raises(ConfigError, match="storage_url"):
        Windows(LimitsPolicyConfig(storage_url="ftp://x"))
