"""`prompt.kept_tokens` on the real engine: a turn computes what is new alone."""

from __future__ import annotations

import pytest

from tests.engine.harness import MODEL, Server, cached_tokens, wait_for

BLOCK = 32
ROOMS = [
    f"Room {number} of the museum shows {what}, a gift of the year {1900 + number}."
    for number, what in enumerate(("clocks", "coins", "maps", "masks", "boats", "bells"), start=1)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    environment = {"MEMOS__PROMPT__KEPT_TOKENS": "1024", "MEMOS__RETRIEVAL__TOP_K": "2"}
    with Server(folder, home=folder / "home", environment=environment).running() as running:
        yield running


def test_a_turn_computes_what_is_new_alone(server):
    with server.http(None, "ann") as http:
        for text in ROOMS:
            payload = {"type": "explicit", "content": [{"text": text}]}
            reply = http.post("/v1/memory/cubes", json={"payload": payload})
            assert reply.status_code == 201, reply.text
    client, history, lengths = server.client(), [], [0]
    for question in (
        "What does room 1 show?",
        "And what does room 5 show?",
        "Which year has room 3?",
    ):
        history.append({"role": "user", "content": question})
        reply = client.chat.completions.create(
            model=MODEL,
            messages=history,
            max_tokens=12,
            temperature=0,
            user="ann",
        )
        assert reply.memory["injected_tokens"] > 0
        assert cached_tokens(reply) >= lengths[-1] - BLOCK
        lengths.append(reply.usage.total_tokens)
        history.append({"role": "assistant", "content": reply.choices[0].message.content})
    assert len(reply.memory["cubes"]) > 2, "with what was kept"
    with server.http(None, "ann") as http:
        plan = wait_for(
            lambda: (
                (found := http.get(f"/v1/memory/explain/{reply.id}")).status_code == 200
                and found.json()
            ),
            "the plan",
        )
    first = next(each for each in plan["entries"] if each["decision"] == "used")
    assert first["reason"].startswith("kept in front of an earlier message")
    stored = [segment["end"] for segment in plan["kv"]["segments"]]
    assert all(end < 2 * BLOCK for end in stored), "no KV of retrieved text is stored"
