"""Cubes, chats and files of the tests of activation memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memos_vllm.activation.erase import SUFFIX
from memos_vllm.activation.files import SegmentReader
from tests.engine.harness import Server, chat, wait_for

BLOCK = 32
RULES = [
    f"Rule {i}: the office in town {i * 7 % 97} opens at {i % 12} o'clock and closes at {i * 5 % 12}."
    for i in range(30)
]
SAME = 0.45
"""Log-probabilities in bfloat16, between a prompt that is computed whole and the same one that goes on
behind cached blocks: vLLM's differ by up to 0.32 (with AMX). With wrong KV, they differ by several."""
LISTED = {"logprobs": True, "top_logprobs": 20}
QUESTION = "When does the office in town 21 open?"


def make(server: Server, name: str, text: str, key: str | None = None, **meta: Any) -> str:
    with server.http(key, meta.pop("as_person", None)) as http:
        reply = http.post(
            "/v1/memory/cubes",
            json={
                "meta": {"name": name, **meta},
                "payload": {"type": "explicit", "format": "text", "content": text},
            },
        )
    assert reply.status_code == 201, reply.text
    return reply.json()["meta"]["id"]


def ask(server: Server, person: str, cube: str, key: str = "none", **extra: Any) -> Any:
    memory = {"cubes": [cube], "retrieve": False, "write": False, **extra.pop("memory", {})}
    return chat(server, key, person, QUESTION, memory=memory, **(LISTED | extra))


def distance(one: Any, other: Any) -> float:
    """Largest difference of the first token's log-probabilities, over tokens that both list."""
    left, right = (
        {top.token: top.logprob for top in reply.choices[0].logprobs.content[0].top_logprobs}
        for reply in (one, other)
    )
    return max(abs(left[token] - right[token]) for token in left.keys() & right.keys())


def same(one: Any, other: Any) -> bool:
    """Whether two replies come from the same KV. Not by their texts: two tokens may be as likely."""
    return distance(one, other) < SAME


def explain(server: Server, reply: Any, person: str, key: str | None = None) -> dict[str, Any]:
    def plan() -> Any:
        with server.http(key, person) as http:
            found = http.get(f"/v1/memory/explain/{reply.id}")
        return found.json() if found.status_code == 200 else None

    return wait_for(plan, "the plan")


def segments(server: Server) -> list[Path]:
    return sorted((server.home / "kv" / "segments").rglob(f"*{SUFFIX}"))


def in_ram(server: Server) -> list[Path]:
    return sorted(server.home.parent.glob(f"memos-kv-*/**/*{SUFFIX}"))


def text_of(reply: Any) -> str:
    return reply.choices[0].message.content


def metric(server: Server, name: str) -> float:
    with server.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def from_disk(server: Server) -> None:
    """Empty shared memory, so that the next load comes from disk."""
    for path in in_ram(server):
        path.unlink()


def served(reply: Any) -> list[str]:
    return [cube["kv"] for cube in reply.memory["cubes"]]


def chains(server: Server, key: str, cube: str) -> int:
    with server.http(key) as http:
        return http.get(f"/v1/memory/cubes/{cube}/activation").json()["chains"]


def contexts_of(server: Server, cube: str) -> list[str]:
    """Names of the segments that hold this cube's own KV."""
    found = []
    for path in segments(server):
        with SegmentReader(path) as reader:
            if reader.metadata["cubes"].rpartition(" ")[2].startswith(cube):
                found.append(str(path.relative_to(server.home / "kv" / "segments").with_suffix("")))
    return found
