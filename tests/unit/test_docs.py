"""The documentation matches the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from pydantic import BaseModel

from memos_vllm.api.app import create_app
from memos_vllm.config.tree import Config

ROOT = Path(__file__).parents[2]


def keys(model: type[BaseModel], prefix: str = "") -> list[tuple[str, object, str | None]]:
    """(key, default, meaning) of each key."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += keys(kind, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            found.append((prefix + name, default, field.description))
    return found


def test_the_configuration_table_has_every_key_default_and_meaning():
    rows = re.findall(
        r"^\| `([\w.]+)` \| (.*?) \| (.*) \|$", (ROOT / "docs/configuration.md").read_text(), re.M
    )
    expected = {}
    for key, default, meaning in keys(Config):
        shown = list(default) if isinstance(default, tuple) else default
        expected[key] = ("" if shown is None else f"`{shown}`", meaning)
    assert {key: (default, meaning) for key, default, meaning in rows} == expected
    assert all(meaning for _, _, meaning in rows)


def test_the_life_of_a_request_names_functions_that_exist():
    text = (ROOT / "docs/life_of_a_request.md").read_text()
    named = re.findall(
        r"`((?:\w+/)*\w+\.py): ([\w.]+)`", text.replace("\n   ", " ").replace(":\n    ", ": ")
    )
    assert len(named) >= 15
    for path, name in named:
        found = importlib.import_module("memos_vllm." + path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)


def test_every_route_of_the_memory_api_is_documented(system):
    text = (ROOT / "docs/memory_api.md").read_text()
    for path, operations in create_app(system).openapi()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text, (method, path)


def test_every_path_in_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / path).exists(), path
    tree = text[text.index("## What is where") : text.index("## Configuration")]
    for path in re.findall(r"`([\w./]+(?:/|\.py))`", tree):
        places = (ROOT / path, ROOT / "memos_vllm" / path)
        assert any(place.exists() for place in places), path
