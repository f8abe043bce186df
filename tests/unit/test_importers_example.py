"""examples/locomo_chat.py: its questions, and its use of the real Memory API."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.config.tree import Config
from memos_vllm.importers.locomo import read_conversations
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem
from tests.unit.test_importers import locomo_conversation, write

FILE = Path(__file__).parents[2] / "examples" / "locomo_chat.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locomo_chat", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def _server_holds_index(config: Config) -> Iterator[None]:
    index = VectorIndex(config)
    assert index.claim()
    yield
    index.close()


def test_questions_are_spread_over_the_categories_and_the_conversation(example: ModuleType) -> None:
    questions = [
        {"question": f"{category}-{n}", "category": category, "evidence": ["D1:1"]}
        for category in (1, 2, 3, 4, 5)
        for n in range(10)
    ]
    chosen = [question["question"] for question in example.spread(questions, 10)]
    assert chosen == ["1-0", "1-5", "2-0", "2-5", "3-0", "3-3", "3-6", "4-0", "4-3", "4-6"]
    assert len(example.spread(questions[:3], 10)) == 2


def test_evidence_is_read_however_it_is_written(example: ModuleType) -> None:
    question = {"evidence": ["D8:6; D9:17", "D", "D30:05", "D8:6"]}
    assert example.evidence_of(question) == ["D8:6", "D9:17", "D30:5"]


def test_the_speaker_who_is_named_first_is_asked(example: ModuleType) -> None:
    speakers = ("Ann", "Bob")
    assert example.person_of("What did Bob tell Ann?", speakers) == "Bob"
    assert example.person_of("What happened?", speakers) == "Ann"


def test_missing_file_says_where_the_data_is(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main([str(tmp_path / "absent.json")]) == 1
    assert "snap-research/locomo" in capsys.readouterr().out


@pytest.mark.usefixtures("_server_holds_index")
def test_memory_api_remembers_once_and_gives_the_turns_back(
    example: ModuleType, tmp_path: Path, system: MemorySystem
) -> None:
    talk = write(tmp_path / "l.json", [locomo_conversation("conv-1", "Ann", "Bob")])
    (conversation,) = read_conversations(talk)
    client = TestClient(
        create_app(system), base_url="http://localhost/v1/", client=("127.0.0.1", 1)
    )
    memory = example.MemoryApi(client)
    assert memory.remember(conversation, "Ann") == 2
    assert memory.remember(conversation, "Ann") == 0
    assert memory.remember(conversation, "Bob") == 2
    page = client.get("memory/cubes", params={"person": "Ann"}).json()
    cube = client.get(f"memory/cubes/{page['cubes'][0]['id']}").json()
    item = cube["payload"]["content"][1]
    block = {"cubes": [{"id": cube["meta"]["id"], "items": [{"id": item["id"], "score": 1.0}]}]}
    assert memory.sources(block, "Ann") == {"D2:2": "conv-1 2 1"}
    assert memory.sources({}, "Ann") == {}
