"""What survives SIGKILL of the whole server: KV of cubes and conversations, and answered turns."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import (
    BLOCK,
    QUESTION,
    RULES,
    ask,
    from_disk,
    in_ram,
    make,
    metric,
    same,
    segments,
    text_of,
)

PERSON = "kim"


@dataclasses.dataclass(frozen=True)
class Before:
    """What the killed server had answered."""

    cube: str
    cold: Any
    warm: Any
    talk: list[dict[str, str]]
    reply: Any


def wait_for_save(server: Server, earlier: set[Path]) -> None:
    """Wait until a segment besides the earlier ones is on disk and in shared memory."""

    def saved() -> bool:
        made = {path.name for path in set(segments(server)) - earlier}
        return bool(made) and made <= {path.name for path in in_ram(server)}

    wait_for(saved, "a save")


@pytest.fixture(scope="module")
def before(restartable: Server) -> Before:
    """Replies of a server that is then killed and restarted, with no KV in shared memory."""
    cube = make(restartable, "survivor", "Survivor. " + " ".join(RULES))
    earlier = set(segments(restartable))
    cold = ask(restartable, "y1", cube, max_tokens=16)
    wait_for_save(restartable, earlier)
    warm = ask(restartable, "y1", cube, max_tokens=16)
    talk = [
        {"role": "user", "content": "Remember these. " + " ".join(RULES[:14])},
        {"role": "assistant", "content": "I will."},
        {"role": "user", "content": QUESTION},
    ]
    earlier = set(segments(restartable))
    reply = chat(restartable, "none", "y2", "", messages=talk, memory={"retrieve": False})
    wait_for_save(restartable, earlier)
    chat(restartable, "none", PERSON, "I was born in Reykjavik.", session_id="birth")
    restartable.kill(signal.SIGKILL)  # at once: the job that makes the turn memory has had no time
    from_disk(restartable)
    restartable.start()
    return Before(cube, cold, warm, talk, reply)


def test_kv_survives_kill_9_and_gives_the_same_reply(restartable: Server, before: Before):
    again = ask(restartable, "y1", before.cube, max_tokens=16)
    assert cached_tokens(again) >= cached_tokens(before.warm) - BLOCK > 500
    assert same(again, before.warm)
    assert again.usage.prompt_tokens == before.cold.usage.prompt_tokens
    assert metric(restartable, "memos_kv_loaded_tokens_disk_total") > 500
    talk = [
        *before.talk,
        {"role": "assistant", "content": text_of(before.reply)},
        {"role": "user", "content": "And when does it close?"},
    ]
    next_reply = chat(restartable, "none", "y2", "", messages=talk, memory={"retrieve": False})
    assert cached_tokens(next_reply) > 300, "the conversation so far is not computed again"


def items(server: Server) -> list[str]:
    """Texts of the person's items. Without keys, a local caller sees every person's cubes."""
    with server.http(None, PERSON) as http:
        cubes = http.get("/v1/memory/cubes").raise_for_status().json()["cubes"]
        full = [http.get(f"/v1/memory/cubes/{cube['id']}").json() for cube in cubes]
    persons = [cube for cube in full if cube["meta"]["person"] == PERSON]
    return [item["text"] for cube in persons for item in cube["payload"]["content"]]


def test_an_answered_turn_survives_kill_9_and_the_next_server_finds_it(
    restartable: Server, before: Before
):
    claimed = f"{PERSON} was born in Reykjavik"
    texts = wait_for(
        lambda: len(found := items(restartable)) > 2 and found,
        "the turn becoming memory after the restart",
    )
    assert {"I was born in Reykjavik.", claimed} <= set(texts)
    assert len(texts) == 3  # the words, the reply and the claim: once, not twice
    found = wait_for(
        lambda: chat(
            restartable, "none", PERSON, "Where was I born?", memory={"write": False}
        ).memory["cubes"],
        "retrieval after the restart",
    )
    assert "chat-birth#1" in [cube["name"] for cube in found]
