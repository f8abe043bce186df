"""Fixtures of several unit tests."""

from __future__ import annotations

import dataclasses

import pytest

from memos_vllm.cube.ids import now_us
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.turns import turn_body
from tests.bundles import Bundler
from tests.conftest import FakeQueue, principal

ALICE = dataclasses.replace(principal("alice"), session="s")


@pytest.fixture
def chat(system):
    """Sends a message as a person, Alice by default, and has the turn remembered."""
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))

    def say(text, who=ALICE, reply="I see."):
        number = now_us()
        messages = [{"role": "user", "content": text}]
        body = turn_body(messages, reply, model="demo", request_id=f"r{number}", at_us=number)
        rememberer.remember(rememberer.accept(who, body))

    return say


@pytest.fixture
def bundler(system, tmp_path):
    """A publisher of bundles whose registry is a folder, and a tenant that installs them."""
    return Bundler(system, tmp_path)
