"""Compacts: KV of a cube in fewer places than its text has tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.harness import Server, chat, wait_for
from tests.engine.kv import make

FACTS = (
    "The code word of Orion Station is LYNX-64. The manager of Orion Station is Ilka Brandt. "
    "The door of Hollow Mill is painted violet. The cat of Hollow Mill is called Pickle. "
    "Cedar Clinic was founded in 1834. The code word of Cedar Clinic is HERON-27. "
    "The manager of Falcon Hall is Tomas Rey. The door of Falcon Hall is painted orange."
)
QUESTION = "What is the code word of Orion Station?"


def compact(server: Server, cube: str, key: str | None = None, **wanted: Any) -> dict[str, Any]:
    """Make a compact, and wait for the job's end."""
    with server.http(key) as http:
        reply = http.post(f"/v1/memory/cubes/{cube}/compact", json=wanted)
        assert reply.status_code == 202, reply.text
        job = reply.json()["id"]

        def ended() -> Any:
            found = http.get(f"/v1/memory/jobs/{job}").json()
            return found if found["state"] not in ("queued", "running") else None

        return wait_for(ended, "the compact", 300)


def ask(server: Server, cubes: list[str], key: str = "none", **extra: Any) -> Any:
    memory = {"cubes": cubes, "retrieve": False, "write": False, "kv": "compact"}
    memory |= extra.pop("memory", {})
    return chat(server, key, "ann", QUESTION, memory=memory, **extra)


def entry(reply: Any, cube: str) -> dict[str, Any]:
    return next(each for each in reply.memory["cubes"] if each["id"] == cube)


@pytest.fixture(scope="module")
def facts(server, keys) -> str:
    cube = make(server, "compact-facts", FACTS, keys.kv_admin, shared=True)
    job = compact(server, cube, keys.kv_admin, ratio=2)
    assert job["state"] == "done", job
    return cube


def test_a_compact_answers_in_place_of_the_text(server, keys, facts):
    text = ask(server, [facts], keys.kv, memory={"kv": "exact"}, max_tokens=12)
    reply = ask(server, [facts], keys.kv, max_tokens=12)
    used = entry(reply, facts)
    assert (used["form"], used["kv"]) == ("kv", "compact"), reply.memory
    saved = text.usage.prompt_tokens - reply.usage.prompt_tokens
    assert saved == pytest.approx(used["tokens"] - used["places"], abs=1)
    assert "LYNX-64" in reply.choices[0].message.content
    assert any(each["kind"] == "compact" for each in reply.memory["cached"])
