"""The documents agree with the code, and their links lead somewhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from memos_vllm.api.app import create_app
from memos_vllm.config.tree import Config
from memos_vllm.options import MemoryOptions

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


def test_every_key_of_the_memory_field_is_documented():
    text = (ROOT / "docs/memory_api.md").read_text()
    table = text[text.index("## The `memory` field") : text.index("## A cube")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(MemoryOptions.model_fields)


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(path: Path) -> set[str]:
    """Anchors that GitHub gives to a document's headings."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        bare = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")
        number = 1
        while (unique := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(unique)
    return found


def broken_links(path: Path) -> list[str]:
    """Links of a document whose file or heading does not exist; addresses are not looked at."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_relative_link_has_its_file_and_heading(path: Path):
    assert broken_links(path) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path):
    (tmp_path / "other.md").write_text("# Other\n\n## A `heading`, twice\n\n## A heading, twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-heading-twice-1) [b](https://example.org/x) [c](#page)\n"
        "[d](other.md#b) [e](missing.md)\n\n# Page\n"
    )
    assert broken_links(page) == ["other.md#b", "missing.md"]


def test_every_path_in_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    start = text.index("## What is where")
    tree = text[start : text.index("\n## ", start)]
    paths = re.findall(r"`([\w./]+(?:/|\.py))`", tree)
    assert len(paths) >= 20
    for path in paths:
        places = (ROOT / path, ROOT / "memos_vllm" / path)
        assert any(place.exists() for place in places), path


def test_the_readme_names_every_package():
    text = (ROOT / "README.md").read_text()
    for package in sorted((ROOT / "memos_vllm").glob("*/__init__.py")):
        assert f"`memos_vllm/{package.parent.name}/`" in text, package.parent.name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_every_path_in_contributing_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(
        r"`((?:memos_vllm|tests|benchmarks|docs|examples|patches|\.ci)/[\w./]*)`", text
    )
    assert len(paths) >= 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
