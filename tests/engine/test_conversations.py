"""KV of conversations on each tier: the same tests for our own files and for LMCache."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from tests.engine.harness import cached_tokens, wait_for
from tests.engine.kv import same
from tests.engine.tiers import Tier, going_on, talk_of


@pytest.fixture(params=["files", "lmcache"])
def tier(request: pytest.FixtureRequest) -> Tier:
    found: Tier = request.getfixturevalue(f"{request.param}_tier")
    return found


def test_a_conversation_continues_from_stored_kv_after_an_engine_restart(tier):
    talk = talk_of("restart")
    reply = tier.kept("ben", talk, max_tokens=16)
    tokens = reply.usage.prompt_tokens
    talk = going_on(talk, reply)
    second = tier.say("ben", talk, max_tokens=16)
    assert cached_tokens(second) > 300
    tier.server.kill(signal.SIGKILL)
    tier.server.start()

    def loaded() -> Any:
        reply = tier.say("ben", talk, max_tokens=16)
        return cached_tokens(reply) and reply

    third = wait_for(loaded, "a load")
    assert cached_tokens(third) >= tier.least(tokens)
    assert same(third, second)


def test_loaded_kv_gives_the_same_log_probabilities_as_the_prefix_cache(tier):
    talk = talk_of("exact")
    options = {"logprobs": True, "top_logprobs": 5, "max_tokens": 16}
    first = tier.kept("cid", talk, **options)
    talk[0]["content"] += " a" * tier.padding(first, "cid")
    tier.kept("cid", talk, **options)
    warm = tier.say("cid", talk, **options)
    tier.empty_engine()
    loaded = tier.say("cid", talk, **options)
    assert cached_tokens(loaded) == cached_tokens(warm) > 300
    assert loaded.choices[0].logprobs == warm.choices[0].logprobs


def test_kv_of_a_conversation_is_not_used_for_other_people(tier):
    talk = talk_of("mine")
    first = tier.kept("dora", talk)
    tier.empty_engine()
    assert cached_tokens(tier.say("emil", talk)) == 0, "another person of the tenant"
    assert cached_tokens(tier.say("dora", talk, tier.globex)) == 0, (
        "a person of the same name in another tenant"
    )
    assert cached_tokens(tier.say("dora", talk, cache_salt="narrower")) == 0
    tier.empty_engine()
    again = tier.say("dora", talk)
    assert cached_tokens(again) > 300
    assert same(again, first)


def test_kv_of_an_unwritten_turn_is_neither_saved_nor_loaded(tier):
    saved = tier.saved()
    talk = talk_of("not kept")
    tier.say("fay", talk, memory={"write": False})
    tier.say("fay", talk, store=False)
    time.sleep(2)
    assert tier.saved() == saved
    tier.kept("fay", talk)
    tier.empty_engine()
    assert cached_tokens(tier.say("fay", talk, memory={"write": False})) == 0


def test_damaged_kv_is_computed_again(tier):
    talk = talk_of("damaged")
    reply = tier.damage("lea", talk)
    tier.empty_engine()
    failures = tier.failures()
    again = tier.say("lea", talk)
    assert same(again, reply)
    assert cached_tokens(again) == 0 or tier.failures() > failures, "the damage was noticed"
    tier.empty_engine()
    assert same(tier.say("lea", talk), reply)
