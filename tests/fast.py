"""`pytest --fast`: unit tests that need no engine, no training and no store.

Files are left out by the import statements in their source, before anything is imported: importing the
engine alone takes longer than most of the other files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_HEAVY = re.compile(
    r"^(?:from|import) (?:vllm|transformers|peft|memos_vllm\.(?:engine|parametric\.training|system)"
    r"|tests\.training)\b",
    re.MULTILINE,
)

_STORES = frozenset({"system", "chat", "database_url", "postgres_url"})
"""Fixtures that open a vault, Chroma and an embedder."""


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=__doc__.partition("\n")[0])


def is_left_out(path: Path) -> bool:
    """Whether a test file imports the engine, its models, training or a whole memory system."""
    return path.suffix == ".py" and bool(_HEAVY.search(path.read_text(encoding="utf-8")))


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is not slow and opens no store."""
    left_out = [item for item in items if _is_slow(item)]
    items[:] = [item for item in items if not _is_slow(item)]
    config.hook.pytest_deselected(items=left_out)


def _is_slow(item: pytest.Item) -> bool:
    opens_store = not _STORES.isdisjoint(getattr(item, "fixturenames", ()))
    return opens_store or any(item.iter_markers("slow")) or any(item.iter_markers("engine"))
