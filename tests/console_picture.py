"""`python -m tests.console_picture`: docs/images/console.png, the page of a plan in Chromium, with made-up data."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.system import MemorySystem
from tests import chromium
from tests.conftest import make_config, principal
from tests.console import console_app, entry, key_of, store_plan
from tests.http_server import served

TARGET = Path(__file__).parents[1] / "docs/images/console.png"
WIDTH, HEIGHT = 1040, 1120
COLOURS = 64
REQUEST = "chatcmpl-b41f"
ALICE = principal("alice")
PROFILE = ("Alice is vegetarian.", "Alice prefers short answers.")
TALKS = (
    ("I moved to Lisbon.", "2026-09-14T00:00:00Z"),
    ("I would like to learn to sail this autumn.", "2026-10-02T00:00:00Z"),
    ("My sister Ines visits me on the first weekend of December.", "2026-11-21T00:00:00Z"),
)
QUESTION = "Where could I take my sister for dinner when she comes?"


def main() -> None:
    program = chromium.executable()
    if program is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        system = MemorySystem(make_config(Path(folder) / "home")).open()
        try:
            _fill(system)
            with served(console_app(system)) as url:
                _draw(program, Path(folder), url, key_of(system))
        finally:
            system.close()


def _cube(system: MemorySystem, name: str, items: list[Item], **meta: Placement):
    new = NewCube(meta=NewMeta(name=name, **meta), payload=ExplicitPayload(content=items))
    return system.create(ALICE, [new])[0]


def _fill(system: MemorySystem) -> None:
    """A profile at the head, three statements found by search, one of them rejected."""
    items = [Item(text=text) for text in PROFILE]
    profile = _cube(system, "profile", items, placement=Placement.STABLE)
    said = [Item(text=text, time=time, speaker="alice") for text, time in TALKS]
    talks = _cube(system, "conversations", said)
    asked = Item(text=QUESTION, speaker="alice", source=f"{REQUEST}:user")
    _cube(system, "today", [asked])
    lisbon, sail, sister = (each.id for each in talks.items)
    of_talks = {"name": "conversations", "reason": "matches the question"}
    head = {"version": profile.meta.version, "placement": Placement.STABLE, "name": "profile"}
    store_plan(
        system,
        REQUEST,
        entries=(
            entry(
                profile.meta.id,
                tokens=31,
                form="kv",
                kv="exact",
                **head,
                reason="placed at the head of every prompt",
            ),
            _found(talks.meta.id, sister, 0.71, 22, bm25=0.62, cosine=0.66, time=0.91, **of_talks),
            _found(talks.meta.id, lisbon, 0.44, 14, bm25=0.0, cosine=0.47, time=0.35, **of_talks),
            _found(
                talks.meta.id,
                sail,
                0.18,
                15,
                bm25=0.0,
                cosine=0.21,
                time=0.42,
                decision="rejected",
                name="conversations",
                reason="not among the best 2 for the question",
            ),
        ),
        injected_tokens=119,
        prompt_tokens=402,
        cached_tokens=352,
        cached=[{"kind": "exact", "source": "memory", "tokens": 352}],
        steps_ms={"read": 0.3, "embed": 4.1, "search": 2.6, "plan": 0.9},
        written=True,
    )


def _found(cube: str, item: str, score: float, tokens: int, **given):
    signals = {name: given.pop(name) for name in ("bm25", "cosine", "time")}
    return entry(cube, item, score=score, tokens=tokens, signals=signals, **given)


def _draw(program: str, folder: Path, url: str, key: str) -> None:
    browser = chromium.Chromium(program, folder / "profile")
    try:
        browser.resize(WIDTH, HEIGHT)
        browser.scheme("light")
        browser.open(f"{url}/memory")
        browser.tab_to("#key")
        browser.type(key)
        browser.submit()
        browser.open(f"{url}/memory/plan?request={REQUEST}&person=alice")
        TARGET.parent.mkdir(exist_ok=True)
        browser.screenshot(TARGET)
    finally:
        browser.close()
    with Image.open(TARGET) as shot:
        size = (min(WIDTH, shot.width), min(HEIGHT, shot.height))  # narrower by the scroll bar
        picture = shot.convert("RGB").crop((0, 0, *size)).quantize(COLOURS)
    picture.save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
