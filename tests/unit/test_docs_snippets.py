"""The snippets of the documents of MCP and of the integrations run, and print what their comments say."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from memos_vllm.api.app import create_app
from memos_vllm.governance.principal import Role
from tests.http_server import served

DOCS = Path(__file__).parents[2] / "docs"
_LIBRARIES = ("anthropic", "langgraph.store.base", "llama_index.core.memory")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / name).read_text(), re.M | re.S)


SNIPPETS = [
    (name, code) for name in ("mcp.md", "integrations.md") for code in blocks(name, "python")
]


def test_every_document_has_snippets():
    assert [name for name, _ in SNIPPETS] == ["mcp.md"] + ["integrations.md"] * 3


@pytest.mark.parametrize(
    ("name", "code"), SNIPPETS, ids=["mcp", "anthropic", "langgraph", "llamaindex"]
)
def test_a_snippet_prints_what_its_comments_say(system, monkeypatch, capsys, name, code):
    for library in _LIBRARIES:
        if f" {library.partition('.')[0]}" in code or f".{library.partition('.')[0]}" in code:
            pytest.importorskip(library, reason=f"{library} is not installed")
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", code, re.M)
    assert expected, "a snippet shows its result"
    _, key = system.keys.create("acme", Role.WRITER)
    with served(create_app(system)) as url:
        monkeypatch.setenv("MEMOS_URL", url)
        monkeypatch.setenv("MEMOS_KEY", key)
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == expected


def test_the_configuration_of_a_client_is_json():
    (text,) = blocks("mcp.md", "json")
    server = json.loads(text)["mcpServers"]["memory"]
    assert server["url"].endswith("/mcp")


def test_the_table_of_tools_names_every_tool_and_its_scopes():
    tools = importlib.import_module("memos_vllm.api.mcp.tools").TOOLS
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (`memory\.[^|]*) \|$", (DOCS / "mcp.md").read_text(), re.M
    )
    shown = {name: re.findall(r"`([\w.]+)`", scopes) for name, scopes in rows}
    assert shown == {name: [str(scope) for scope in tool.scopes] for name, tool in tools.items()}
