"""`pytest --fast`: unit tests that neither import the engine nor train a model, on SQLite only.

Files are left out by the import statements in their source, before anything is imported: importing the
engine alone takes longer than most of the other files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_HEAVY = re.compile(
    r"^(?:from|import) (?:vllm|transformers|peft|memos_vllm\.engine|memos_vllm\.parametric\.training"
    r"|tests\.training)\b",
    re.MULTILINE,
)


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=__doc__.partition("\n")[0])


def is_left_out(path: Path) -> bool:
    """Whether a test file imports the engine, its models or training."""
    return path.suffix == ".py" and bool(_HEAVY.search(path.read_text(encoding="utf-8")))


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is neither slow nor on Postgres."""
    left_out = [item for item in items if _is_slow(item)]
    items[:] = [item for item in items if not _is_slow(item)]
    config.hook.pytest_deselected(items=left_out)


def _is_slow(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None)
    on_postgres = parameters is not None and "postgres" in parameters.params.values()
    return on_postgres or any(item.iter_markers("slow")) or any(item.iter_markers("engine"))
