"""Chats in OpenAI's formats: the data export and logs of chat completions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.errors import BadRequest
from memos_vllm.importers.openai_chat import openai_chat_source, read_chats
from memos_vllm.importers.skipped import Skipped
from tests.unit.test_importers import items, write, write_lines


def exported() -> dict[str, Any]:
    def node(
        parent: str | None, children: list[str], role: str = "", text: Any = ""
    ) -> dict[str, Any]:
        message = {
            "author": {"role": role},
            "create_time": 1_700_000_000.0,
            "content": {"content_type": "text", "parts": [text]},
        }
        return {"message": message if role else None, "parent": parent, "children": children}

    return {
        "title": "Cats",
        "conversation_id": "c-1",
        "create_time": 1_700_000_000.0,
        "current_node": "new",
        "mapping": {
            "root": node(None, ["sys"]),
            "sys": node("root", ["ask"], "system", "Be brief."),
            "ask": node("sys", ["old", "new"], "user", "My cat is Miso."),
            "old": node("ask", [], "assistant", "thrown away"),
            "new": node("ask", [], "assistant", "A fine name."),
        },
    }


def test_openai_export_follows_the_branch_that_is_shown(tmp_path: Path) -> None:
    source = openai_chat_source(write(tmp_path / "c.json", [exported()]), "ann", 64)
    (cube,) = source.cubes()
    assert [(i.speaker, i.text) for i in items(cube)] == [
        ("ann", "My cat is Miso."),
        ("assistant", "A fine name."),
    ]
    assert cube.new.meta.name == "openai-chat:c-1:1"
    assert cube.new.meta.provenance.note == "Cats"
    assert items(cube)[0].time == datetime.fromtimestamp(1_700_000_000, UTC)


def test_openai_export_with_a_circle_is_left_out_and_stops_no_other(tmp_path: Path) -> None:
    record = exported()
    record["mapping"]["ask"]["parent"] = "new"
    skipped = Skipped()
    chats = read_chats(write(tmp_path / "c.json", [record, exported()]), skipped)
    assert [chat.id for chat in chats] == ["c-1"]
    (group, *_) = skipped.groups()
    assert (group.what, group.count, "circle" in group.reason) == ("conversation", 1, True)


def test_openai_log_keeps_only_the_longest_of_growing_histories(tmp_path: Path) -> None:
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    second = [
        *first,
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "bye"}]},
    ]
    file = write_lines(
        tmp_path / "log.jsonl",
        {
            "messages": first,
            "user": "ann",
            "choices": [{"message": {"role": "assistant", "content": "hello"}}],
        },
        {"messages": second, "user": "ann", "id": "r2"},
        {"messages": first, "user": "bob"},
    )
    chats = read_chats(file, Skipped())
    assert [(c.person, [m.text for m in c.messages]) for c in chats] == [
        ("ann", ["hi", "hello", "bye"]),
        ("bob", ["hi"]),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ('[{"prompt": "x"}]', "record 1 is neither"),
        ('{"prompt": "x"}', "line 1 is neither"),
        ("[1]", "record 1 is not an object"),
        ('[{"messages": []}]', "no message of a user"),
        ('[{"messages":', "not valid JSON"),
    ],
)
def test_openai_errors_name_the_fault(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(BadRequest, match=said):
        openai_chat_source(file, None, 64)
