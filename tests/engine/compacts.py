"""Compacts for tests of the engine: made, asked, and found on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memos_vllm.activation.compacts import Compact, CompactNotes
from memos_vllm.activation.erase import SUFFIX
from tests.engine.harness import MODEL, Server, chat, wait_for
from tests.engine.kv import in_ram

FACTS = (
    "The code word of Orion Station is LYNX-64. The manager of Orion Station is Ilka Brandt. "
    "The door of Hollow Mill is painted violet. The cat of Hollow Mill is called Pickle. "
    "Cedar Clinic was founded in 1834. The code word of Cedar Clinic is HERON-27. "
    "The manager of Falcon Hall is Tomas Rey. The door of Falcon Hall is painted orange."
)
OTHER = (
    "The cat of Amber Library is called Waffle. The door of Amber Library is painted silver. "
    "Granite Tower was founded in 1790. The manager of Granite Tower is Leila Haddad. "
    "The code word of Raven Bakery is OTTER-31. The cat of Raven Bakery is called Domino."
)
QUESTION = "What is the code word of Orion Station?"


def compact(
    server: Server, cube: str, key: str | None = None, person: str | None = None, **wanted: Any
) -> dict[str, Any]:
    """Make a compact, and wait for the job's end."""
    with server.http(key, person) as http:
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
    question = extra.pop("question", QUESTION)
    return chat(server, key, extra.pop("person", "ann"), question, memory=memory, **extra)


def stream(server: Server, cube: str, max_tokens: int) -> Any:
    memory = {"cubes": [cube], "retrieve": False, "write": False, "kv": "compact"}
    return server.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        user="ann",
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        extra_body={"memory": memory},
    )


def said(reply: Any) -> str:
    return reply.choices[0].message.content


def forms(reply: Any) -> list[str]:
    return [each["kv"] for each in reply.memory["cubes"]]


def notes(server: Server) -> dict[str, Compact]:
    return dict(CompactNotes(server.home / "kv" / "compacts").all())


def files(server: Server, cube: str) -> list[Path]:
    """All files of a cube's compacts, on both tiers."""
    found = [each for each in notes(server).values() if each.cube.startswith(f"{cube}@")]
    names = [f"{each.name.key}{SUFFIX}" for each in found]
    everywhere = [*(server.home / "kv" / "segments").rglob(f"*{SUFFIX}"), *in_ram(server)]
    return [path for path in everywhere if path.name in names]


def empty_engine(server: Server) -> None:
    """Empty the engine's prefix cache."""

    def emptied() -> bool:
        with server.http() as http:
            return http.post("/reset_prefix_cache").is_success

    wait_for(emptied, "an empty prefix cache")
