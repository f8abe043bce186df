"""The snippets of docs/clients.md, run as they stand there by the clients themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server, wait_for

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
AI_SDK = Path(__file__).parent / "ai_sdk"


def snippet(heading: str, language: str = "python") -> str:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0]


def run(server: Server, key: str, client: str) -> dict[str, object]:
    """Run a snippet; returns its names."""
    names: dict[str, object] = {"URL": server.url, "KEY": key}
    exec(compile(snippet(client), f"clients.md, {client}", "exec"), names)
    return names


@pytest.fixture
def new_key(server: Server) -> Callable[[str], str]:
    """Makes a key of a new tenant, whose `alice` has said nothing."""

    def made(tenant: str) -> str:
        system = MemorySystem(load_config(overrides={"home": str(server.home)})).open()
        try:
            return system.keys.create(tenant, Role.WRITER)[1]
        finally:
            system.close()

    return made


def turns_of_alice(server: Server, key: str) -> int:
    """Number of her items that say what the snippet says."""
    with server.http(key, "alice") as http:
        cubes = http.get("/v1/memory/cubes", params={"name_prefix": "chat-"}).json()["cubes"]
        items = [
            item
            for cube in cubes
            for item in http.get(f"/v1/memory/cubes/{cube['id']}").json()["payload"]["content"]
        ]
    return sum("My canoe is called Heron." in item["text"] for item in items)


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_a_snippet_of_the_page_runs_and_gets_memory(server, keys, client, capsys):
    names = run(server, keys.acme, client)
    printed = capsys.readouterr().out
    assert "[" in printed
    if client == "openai":
        assert names["second"].previous_response_id == names["first"].id
        assert printed.strip().endswith("True")
    assert names["reply"].memory["degraded"] == []


@pytest.mark.parametrize(
    ("client", "package"), [("LangChain", "langchain_openai"), ("LiteLLM", "litellm")]
)
def test_what_is_said_through_another_library_is_remembered(
    server, new_key, client, package, capsys, monkeypatch
):
    pytest.importorskip(package)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    key = new_key(client.lower())
    run(server, key, client)
    assert capsys.readouterr().out.strip()
    wait_for(lambda: turns_of_alice(server, key) == 1, "the turn becoming memory")
    if client == "LangChain":
        with server.http(key, "alice") as http:
            found = http.post("/v1/memory/search", json={"query": "What is my canoe called?"})
        assert any("What is my canoe" in hit["item"]["text"] for hit in found.json()["results"])


@pytest.fixture(scope="module")
def ai_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the AI SDK."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    folder = tmp_path_factory.mktemp("ai_sdk")
    shutil.copy(AI_SDK / "package.json", folder)
    quick = ("--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000")
    try:
        subprocess.run(
            [npm, "install", *quick],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not install the AI SDK in three minutes")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm does not install the AI SDK: {error.stderr[-300:]}")
    return folder


def test_the_ai_sdk_is_remembered_on_both_of_its_routes(server, new_key, ai_sdk):
    key = new_key("ai-sdk")
    names = f"const URL = {server.url!r};\nconst KEY = {key!r};\n"
    (ai_sdk / "snippet.mjs").write_text(names + snippet("AI SDK", "ts"))
    done = subprocess.run(
        ["node", "snippet.mjs"], cwd=ai_sdk, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    wait_for(lambda: turns_of_alice(server, key) == 2, "both turns becoming memory")
