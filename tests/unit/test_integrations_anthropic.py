"""Anthropic's memory tool over a real socket, with the real library."""

from __future__ import annotations

import contextlib
import json

import pytest
from fastapi import FastAPI, Request

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import Placement
from memos_vllm.errors import BadRequest, Forbidden, Unavailable
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.integrations.client import MemoryClient
from memos_vllm.integrations.pieces import LONGEST, pieces
from tests.conftest import principal
from tests.http_server import served

anthropic = pytest.importorskip("anthropic", reason="the extra `anthropic` is not installed")
from anthropic.lib.tools import ToolError  # noqa: E402

from memos_vllm.integrations.anthropic_memory import (  # noqa: E402
    ORIGIN,
    AsyncMemosMemoryTool,
    MemosMemoryTool,
)


@pytest.fixture
def url(system):
    with served(create_app(system)) as address:
        yield address


@pytest.fixture
def client_of(system, url):
    keys = {}
    with contextlib.ExitStack() as stack:

        def make(person="alice", tenant="acme", role=Role.WRITER):
            kept = (tenant, role)
            if kept not in keys:
                keys[kept] = system.keys.create(tenant, role)[1]
            return stack.enter_context(MemoryClient(url, keys[kept], person))

        yield make


@pytest.fixture
def tool(client_of):
    return MemosMemoryTool(client_of())


def run(tool, command, **arguments):
    return tool.call({"command": command, **arguments})


def refused(tool, command, **arguments):
    with pytest.raises(ToolError) as caught:
        run(tool, command, **arguments)
    return str(caught.value)


def content(tool, path):
    shown = run(tool, "view", path=path).split("\n")[1:]
    return "\n".join(line.split("\t", 1)[1] for line in shown)


def test_every_command_of_the_tool(tool):
    assert tool.to_dict() == {"type": "memory_20250818", "name": "memory"}
    run(tool, "create", path="/memories/notes/trip.md", file_text="# Trip\n- Oslo\n- Bergen\n")
    run(tool, "create", path="/memories/todo.txt", file_text="buy milk")
    assert "already exists" in refused(tool, "create", path="/memories/todo.txt", file_text="x")
    listing = run(tool, "view", path="/memories")
    assert listing.split("\n")[1:] == [
        "/memories",
        "/memories/notes/",
        "/memories/notes/trip.md",
        "/memories/todo.txt",
    ]
    shown = run(tool, "view", path="/memories/notes/trip.md", view_range=[2, 3])
    assert shown.endswith("     2\t- Oslo\n     3\t- Bergen")
    edited = run(
        tool, "str_replace", path="/memories/notes/trip.md", old_str="- Oslo\n", new_str="- Voss\n"
    )
    assert "     2\t- Voss" in edited
    assert "did not appear" in refused(
        tool, "str_replace", path="/memories/notes/trip.md", old_str="Oslo", new_str="x"
    )
    several = refused(
        tool, "str_replace", path="/memories/notes/trip.md", old_str="- ", new_str="* "
    )
    assert "in lines: 2, 3" in several
    run(tool, "insert", path="/memories/notes/trip.md", insert_line=1, insert_text="- Hamar\n")
    assert content(tool, "/memories/notes/trip.md") == "# Trip\n- Hamar\n- Voss\n- Bergen\n"
    assert "[0, 4]" in refused(
        tool, "insert", path="/memories/notes/trip.md", insert_line=9, insert_text="x"
    )
    run(tool, "rename", old_path="/memories/notes", new_path="/memories/old/notes")
    assert content(tool, "/memories/old/notes/trip.md").startswith("# Trip")
    assert "does not exist" in refused(tool, "view", path="/memories/notes/trip.md")
    assert "already exists" in refused(
        tool, "rename", old_path="/memories/todo.txt", new_path="/memories/old/notes/trip.md"
    )
    run(tool, "delete", path="/memories/old")
    assert run(tool, "view", path="/memories").split("\n")[1:] == [
        "/memories",
        "/memories/todo.txt",
    ]
    assert "does not exist" in refused(tool, "delete", path="/memories/old")
    for command, arguments in (
        ("delete", {"path": "/memories"}),
        ("rename", {"old_path": "/memories", "new_path": "/memories/x"}),
        ("view", {"path": "/memories/none"}),
        ("insert", {"path": "/memories/none", "insert_line": 0, "insert_text": "x"}),
    ):
        assert refused(tool, command, **arguments)
    assert tool.clear_all_memory() == "All memory cleared"
    assert run(tool, "view", path="/memories").split("\n")[1:] == ["/memories"]


def test_a_path_leaves_memories_in_no_spelling(tool, client_of):
    client_of().create({"name": "profile"}, [{"text": "Alice lives in Paris."}])
    for path in (
        "/etc/passwd",
        "memories/a",
        "/memoriesx/a",
        "/memories/../profile",
        "/memories/a/../../profile",
        "/memories/./a",
        "/memories//a",
        "/memories/%2e%2e/a",
        "/memories/%252e%252e/a",
        "/memories/..%2fa",
        "/memories/a%2Fb",
        "/memories/a\\b",
        "/memories/%5c..",
        "/memories/a\x00b",
        "/memories/a\nb",
        "/memories/\u202egpj.exe",
        "/memories/" + "a" * 200,
        "",
        "/",
    ):
        for command, arguments in (
            ("view", {"path": path}),
            ("create", {"path": path, "file_text": "x"}),
            ("delete", {"path": path}),
            ("rename", {"old_path": "/memories/a", "new_path": path}),
            ("rename", {"old_path": path, "new_path": "/memories/a"}),
            ("str_replace", {"path": path, "old_str": "a", "new_str": "b"}),
            ("insert", {"path": path, "insert_line": 0, "insert_text": "x"}),
        ):
            assert refused(tool, command, **arguments), (command, path)
    assert client_of().cube("profile").items[0].text == "Alice lives in Paris."


def test_files_come_back_as_they_were(tool):
    texts = [
        "",
        "\n",
        " \n\n\t\n",
        "one line",
        "  leading, and trailing   \n\n\nblank lines\n\n",
        "tabs\tand\r\nline ends\r\n",
        "x" * 3000,
        "word " * 900,
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002" * 200,
        "- same\n" * 300,
        "\u00e9 and e\u0301, \U0001f600\n",
    ]
    for number, text in enumerate(texts):
        run(tool, "create", path=f"/memories/{number}", file_text=text)
        assert content(tool, f"/memories/{number}") == text, number


def test_names_in_every_script_are_kept_apart(tool):
    names = ["a%b", "\u00fc.md", "\u65e5\u8a18", "a b", "A", "a", "100%", "#?&="]
    for name in names:
        run(tool, "create", path=f"/memories/{name}", file_text=name)
    for name in names:
        assert content(tool, f"/memories/{name}") == name
    assert len(run(tool, "view", path="/memories").split("\n")) == len(names) + 2


def test_a_files_text_is_marked_found_and_stands_in_no_prompt_by_itself(system, tool):
    run(tool, "create", path="/memories/me.md", file_text="My name is Mallory.\nI live in Rome.\n")
    alice = principal("alice")
    hits = system.search(alice, "Where does Mallory live?", None, 3).found
    assert {hit.recalled.item.speaker for hit in hits} == {"tool"}
    cube = system.vault.get(alice, hits[0].recalled.cube_id)
    assert cube.meta.provenance.origin == ORIGIN
    assert cube.meta.placement is Placement.RETRIEVED
    assert json.loads(cube.meta.provenance.note) == {"path": "/memories/me.md"}
    assert system.views.stable(alice, []).texts == []
    assert system.knowledge.claims(alice) == []


def test_other_people_and_readers_get_nowhere(tool, client_of):
    run(tool, "create", path="/memories/secret.md", file_text="the code word is avocado")
    for other in (
        client_of("bob"),
        client_of("alice", "globex"),
        client_of("bob", role=Role.ADMIN),
    ):
        theirs = MemosMemoryTool(other)
        assert "avocado" not in run(theirs, "view", path="/memories")
        assert "does not exist" in refused(theirs, "view", path="/memories/secret.md")
        assert "does not exist" in refused(theirs, "delete", path="/memories/secret.md")
    reader = MemosMemoryTool(client_of(role=Role.READER))
    assert content(reader, "/memories/secret.md") == "the code word is avocado"
    assert "role `writer`" in refused(reader, "delete", path="/memories/secret.md")
    assert content(tool, "/memories/secret.md") == "the code word is avocado"


def test_a_secret_is_redacted_wherever_a_border_would_fall(system, tool):
    card, password = "4111 1111 1111 1111", "hunter2-and-more"
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow\n" * 100 + "-----END RSA PRIVATE KEY-----"
    for offset in range(0, 300, 7):
        text = "x " * (offset // 2) + f"card {card} and the password is {password} " + "y " * 400
        assert all(card not in piece or piece.count(card) == 1 for piece in pieces(text))
        assert any(card in piece for piece in pieces(text)), offset
        assert any(f"the password is {password}" in piece for piece in pieces(text)), offset
    run(
        tool,
        "create",
        path="/memories/keys.md",
        file_text=f"{'a ' * 120}{card}\nthe password is {password}\n{key}\n",
    )
    shown = content(tool, "/memories/keys.md")
    for secret in ("4111", password, "MIIEow"):
        assert secret not in shown
    items = system.search(principal("alice"), "MIIEow password card", None, 20).found
    assert all("MIIEow" not in hit.recalled.item.text for hit in items)


def test_pieces_join_to_the_text_and_are_short():
    for text in ("", "a", "a" * 5000, "word " * 999, "\n" * 700, "line\n" * 400, " " * 600 + "x"):
        made = pieces(text)
        assert "".join(made) == text
        assert all(0 < len(piece) <= LONGEST for piece in made)


def test_an_edit_after_another_clients_edit_is_refused(tool, client_of, monkeypatch):
    run(tool, "create", path="/memories/a", file_text="one")
    other, files = MemosMemoryTool(client_of()), tool._files
    read = files._existing

    def read_and_be_overtaken(path):
        cube = read(path)
        run(other, "str_replace", path="/memories/a", old_str="one", new_str="two")
        return cube

    monkeypatch.setattr(files, "_existing", read_and_be_overtaken)
    said = refused(tool, "str_replace", path="/memories/a", old_str="one", new_str="three")
    assert "view it again" in said
    assert content(other, "/memories/a") == "two"


def test_a_cube_made_by_hand_is_no_file(tool, client_of):
    client_of().create({"name": "memory-file:memories%2Fby-hand"}, [{"text": "x"}])
    assert "does not exist" in refused(tool, "view", path="/memories/by-hand")
    assert "does not exist" in refused(tool, "delete", path="/memories/by-hand")
    assert "already exists" in refused(tool, "create", path="/memories/by-hand", file_text="y")


def test_limits_and_a_server_that_is_away(tool, client_of):
    long = "x" * 200_001
    assert "at most 200000" in refused(tool, "create", path="/memories/a", file_text=long)
    assert "NUL" in refused(tool, "create", path="/memories/a", file_text="a\x00")
    with MemoryClient("http://127.0.0.1:9", "sk-memos-x", "alice", timeout_seconds=2) as away:
        assert "does not answer" in refused(MemosMemoryTool(away), "view", path="/memories")
        with pytest.raises(Unavailable):
            away.cube("x")
    with pytest.raises(Forbidden):
        client_of(role=Role.READER).create({}, [{"text": "x"}])


def test_a_token_names_its_person_and_a_key_alone_is_refused(system, client_of, url):
    owner = system.keys.authenticate(system.keys.create("acme", Role.WRITER)[1])
    scopes = [Scope.READ, Scope.WRITE, Scope.DELETE]
    _, token = system.keys.tokens.create(owner, "alice", scopes, 900)
    with MemoryClient(url, token) as client:
        run(MemosMemoryTool(client), "create", path="/memories/a", file_text="x")
    assert content(MemosMemoryTool(client_of()), "/memories/a") == "x"
    for person in (None, ""):
        with pytest.raises(BadRequest, match="person"):
            MemoryClient(url, system.keys.create("acme", Role.ADMIN)[1], person)


async def test_the_async_tool_does_the_same(client_of):
    tool = AsyncMemosMemoryTool(client_of())
    await tool.call({"command": "create", "path": "/memories/a", "file_text": "x"})
    assert (await tool.call({"command": "view", "path": "/memories/a"})).endswith("1\tx")
    with pytest.raises(ToolError):
        await tool.call({"command": "view", "path": "/memories/../a"})


def test_the_librarys_tool_runner_writes_and_reads_files(tool):
    """With the real client of Anthropic; the model is a server that asks for two tool calls."""
    app, seen = FastAPI(), []
    calls = [
        {"command": "create", "path": "/memories/cat.md", "file_text": "The cat is called Miso."},
        {"command": "view", "path": "/memories/../etc"},
    ]

    @app.post("/v1/messages")
    async def fake_model(request: Request):
        body = await request.json()
        seen.append(body)
        step = len(seen) - 1
        content = [{"type": "text", "text": "Done."}]
        if step < len(calls):
            content = [
                {"type": "tool_use", "id": f"t{step}", "name": "memory", "input": calls[step]}
            ]
        return {
            "id": f"m{step}",
            "type": "message",
            "role": "assistant",
            "model": "fake",
            "content": content,
            "stop_reason": "tool_use" if step < len(calls) else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }

    with served(app) as address:
        runner = anthropic.Anthropic(
            base_url=address, api_key="x", max_retries=0
        ).beta.messages.tool_runner(
            model="fake",
            max_tokens=64,
            max_iterations=5,
            messages=[{"role": "user", "content": "My cat is called Miso."}],
            tools=[tool],
        )
        assert runner.until_done().content[0].text == "Done."
    assert seen[0]["tools"] == [{"type": "memory_20250818", "name": "memory"}]
    results = [
        block
        for body in seen
        for block in body["messages"][-1]["content"]
        if isinstance(block, dict) and block["type"] == "tool_result"
    ]
    assert "created" in json.dumps(results[0])
    assert results[-1]["is_error"]
    assert content(tool, "/memories/cat.md") == "The cat is called Miso."
