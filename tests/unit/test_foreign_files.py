"""Files of other systems: every shape that occurs, what is left out, and one bad record beside good ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.config.imports import ImportsConfig
from memos_vllm.errors import BadRequest, MemosError, TooLarge
from memos_vllm.importers.foreign.elements import list_elements
from memos_vllm.importers.foreign.parser import ForeignFiles, Parsed
from memos_vllm.importers.foreign.records import Chat, Document, Fact
from tests.unit import exports


@pytest.fixture(scope="module")
def files() -> Iterator[ForeignFiles]:
    """The real process that reads."""
    opened = ForeignFiles(ImportsConfig())
    yield opened
    opened.close()


def left_out(parsed: Parsed) -> dict[str, int]:
    """Counts, by what is left out."""
    found: dict[str, int] = {}
    for group in parsed.skipped.groups():
        assert group.reason
        assert group.names or group.what == "message"
        found[group.what] = found.get(group.what, 0) + group.count
    return found


def said(chat: Any) -> list[tuple[str, str]]:
    assert isinstance(chat, Chat)
    return [(each.role, each.text) for each in chat.messages]


# -- ChatGPT -------------------------------------------------------------------------------------------


def test_chatgpts_zip_gives_the_shown_branch_with_voice_and_counts_the_rest(
    files: ForeignFiles, tmp_path: Path
) -> None:
    parsed = files.read(exports.chatgpt_zip(tmp_path / "export.zip"))
    assert parsed.kind == "chatgpt"
    (chat,) = parsed.records()
    assert isinstance(chat, Chat)
    assert (chat.id, chat.title) == ("68b0-c1", "Möwen & 猫")
    assert said(chat) == [
        ("user", "I live in Paris. My cat is called Miso."),
        ("assistant", "You are a pilot. A fine city!"),
        ("user", "My dog is called Rex."),
        ("assistant", "Rex it is."),
        ("user", "Ich wohne in Zürich. 我喜欢茶。"),
    ]
    assert chat.messages[0].time is not None
    assert chat.messages[0].time.timestamp() == exports.T0 + 1
    # system, custom instructions, the other branch, the call, the tool, the thoughts, the empty reply
    assert left_out(parsed) == {
        "message": 7,
        "recording": 1,
        "image": 1,
        "file of the archive": 3,
    }
    reasons = {group.reason for group in parsed.skipped.groups()}
    assert any("custom instructions" in reason for reason in reasons)
    assert any("not shown" in reason for reason in reasons)


def test_bad_conversations_stop_no_other_and_the_persons_wish_is_kept(
    files: ForeignFiles, tmp_path: Path
) -> None:
    circle = exports.chatgpt_conversation("circle")
    circle["mapping"]["q1"]["parent"] = "a1"
    private = exports.chatgpt_conversation("private", is_do_not_remember=True)
    unnamed = exports.chatgpt_conversation("unnamed", current_node=None)
    lost = exports.chatgpt_conversation("lost", current_node="gone")
    records = [circle, private, 7, None, {"mapping": None, "id": "m"}, unnamed, lost]
    text = json.dumps(records)[:-1] + ', {"mapping": {}, "mapping": {}}, {"mapping": NaN}]'
    path = tmp_path / "conversations.json"
    path.write_text(text)
    parsed = files.read(path)
    chats = list(parsed.records())
    assert [chat.id for chat in chats if isinstance(chat, Chat)] == ["unnamed", "lost"]
    assert said(chats[0])[-1] == ("user", "Ich wohne in Zürich. 我喜欢茶。")
    counts = left_out(parsed)
    assert (counts["conversation"], counts["record"]) == (3, 4)


def test_an_export_in_several_files_is_read_whole(files: ForeignFiles, tmp_path: Path) -> None:
    members = {
        f"conversations-00{n}.json": [exports.chatgpt_conversation(f"c{n}")] for n in range(3)
    }
    parsed = files.read(exports.write_zip(tmp_path / "e.zip", members))
    assert [each.id for each in parsed.records()] == ["c0", "c1", "c2"]


# -- Claude --------------------------------------------------------------------------------------------


def test_claudes_zip_gives_chats_attachments_and_projects(
    files: ForeignFiles, tmp_path: Path
) -> None:
    parsed = files.read(exports.claude_zip(tmp_path / "export.zip"))
    assert parsed.kind == "claude"
    records = list(parsed.records())
    (chat,) = (each for each in records if isinstance(each, Chat))
    assert said(chat) == [
        ("user", "I moved to Lyon. My sister is called Anaïs."),
        ("assistant", "Félicitations!"),
        ("user", "Where is the key?"),
    ]
    documents = {each.name: each.text for each in records if isinstance(each, Document)}
    assert documents == {
        "lettre.txt": "Cher Émile, la clef est sous le pot.",
        "Thèse: instructions": "Answer in French.",
        "plan.md": "# Plan\n\nChapitre 1",
    }
    counts = left_out(parsed)
    assert counts["file"] == 2
    assert counts["attachment"] == 1
    assert counts["document of a project"] == 2
    assert counts["file of the archive"] == 2
    assert {what for what in counts if what.startswith("block")} == {
        "block 'thinking' of a message",
        "block 'tool_use' of a message",
        "block 'tool_result' of a message",
        "block 'None' of a message",
    }
    assert "pilot" not in parsed.lines.decode()


def test_claudes_branches_follow_the_parents(files: ForeignFiles, tmp_path: Path) -> None:
    chat = exports.claude_conversation()
    first, reply, third, _ = chat["chat_messages"]
    other = {**reply, "uuid": "m2b", "content": [], "text": "thrown away"}
    first["parent_message_uuid"] = "00000000-0000-4000-8000-000000000000"
    reply["parent_message_uuid"] = other["parent_message_uuid"] = "m1"
    third["parent_message_uuid"] = "m2"
    chat["chat_messages"] = [first, other, reply, third]
    parsed = files.read(exports.write_json(tmp_path / "c.json", [chat]))
    (read,) = (each for each in parsed.records() if isinstance(each, Chat))
    assert [each.id for each in read.messages] == ["m1", "m2", "m3"]
    assert left_out(parsed)["message"] == 1


# -- Mem0 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        exports.MEM0_ALL,
        {**exports.MEM0_ALL, "count": 5, "next": None, "previous": None},
        exports.MEM0_ALL["results"],
        {"memories": exports.MEM0_ALL["results"]},
    ],
)
def test_mem0s_memories_of_every_version_of_its_api(
    files: ForeignFiles, tmp_path: Path, shape: Any
) -> None:
    path = exports.write_json(tmp_path / "m.json", shape)
    path.write_text(path.read_text("utf-8") + "\n\n", "utf-8")  # as many tools end a file
    parsed = files.read(path)
    assert parsed.kind == "mem0"
    facts = [each for each in parsed.records() if isinstance(each, Fact)]
    assert [(each.id, each.text, each.user) for each in facts] == [
        ("mem-1", "Lives in Berlin", "alice"),
        ("mem-2", "喜欢绿茶", "alice"),
    ]
    assert facts[1].session == "run-7"
    assert facts[1].ended is not None
    assert left_out(parsed) == {"memory": 2, "record": 1}


def test_mem0s_history_gives_what_was_and_until_when(files: ForeignFiles, tmp_path: Path) -> None:
    both = {**exports.MEM0_ALL, "history": exports.MEM0_HISTORY}
    for name, shape in (("both", both), ("alone", exports.MEM0_HISTORY)):
        parsed = files.read(exports.write_json(tmp_path / f"{name}.json", shape))
        facts = {each.text: each for each in parsed.records() if isinstance(each, Fact)}
        old = facts["Lives in Paris"]
        assert old.ended is not None
        assert old.ended.isoformat() == "2024-08-01T10:00:00-07:00"
        assert (old.replaced_by, facts["Lives in Berlin"].ended) == ("mem-1", None)
        assert "A secret" not in parsed.lines.decode()
        assert any("deleted in Mem0" in group.reason for group in parsed.skipped.groups())


def test_mem0s_database_file_is_refused_with_the_command_that_dumps_it(
    files: ForeignFiles, tmp_path: Path
) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 100)
    with pytest.raises(BadRequest, match="sqlite3 -json"):
        files.read(path)


# -- MemOS ---------------------------------------------------------------------------------------------


def test_memos_tree_gives_facts_once_with_what_they_replaced(
    files: ForeignFiles, tmp_path: Path
) -> None:
    parsed = files.read(exports.write_json(tmp_path / "textual_memory.json", exports.memos_tree()))
    assert parsed.kind == "memos"
    facts = {each.text: each for each in parsed.records() if isinstance(each, Fact)}
    assert set(facts) == {
        "Alice lives in Lisbon.",
        "アリスは紅茶が好きです。",
        "アリスはコーヒーが好きです。",
        "Old job at Acme.",
        "How to brew tea.",
    }
    assert facts["アリスはコーヒーが好きです。"].ended is not None
    assert facts["アリスは紅茶が好きです。"].type == "preference"
    assert facts["Old job at Acme."].ended is not None
    assert facts["How to brew tea."].type == "procedure"
    lisbon = facts["Alice lives in Lisbon."]
    assert (lisbon.user, lisbon.session, lisbon.confidence) == ("alice", "s-1", 0.99)
    assert lisbon.time is not None
    assert lisbon.time.isoformat() == "2025-07-01T09:00:00Z".replace("Z", "+00:00")
    assert left_out(parsed) == {"memory": 4, "record": 1}


def test_memos_vectors_preferences_and_folders(files: ForeignFiles, tmp_path: Path) -> None:
    naive = [exports.memos_item(1, "Alice has a bike.")]
    preference = exports.memos_item(2, "Likes jazz.", preference_type="explicit_preference")
    shapes: list[tuple[Any, list[str]]] = [
        (exports.memos_vectors(), ["Alice has a bike."]),
        (naive, ["Alice has a bike."]),
        ({"explicit_preference": [{"id": "x", "payload": preference}]}, ["Likes jazz."]),
    ]
    for number, (shape, texts) in enumerate(shapes):
        parsed = files.read(exports.write_json(tmp_path / f"{number}.json", shape), "auto")
        kind = "memos" if number != 2 else parsed.kind
        assert parsed.kind == kind
        assert [each.text for each in parsed.records() if isinstance(each, Fact)] == texts
    folder = {"cube/textual_memory.json": naive, "cube/activation_memory.pickle": b"\x80\x04."}
    parsed = files.read(exports.write_zip(tmp_path / "cube.zip", folder))
    assert parsed.kind == "memos"
    assert left_out(parsed) == {"file of the archive": 1}


def test_text_that_nests_without_end_inside_a_string_costs_nothing(
    files: ForeignFiles, tmp_path: Path
) -> None:
    deep = exports.memos_item(1, "Alice has a bike.", sources=["[" * 100_000])
    parsed = files.read(exports.write_json(tmp_path / "m.json", [deep]))
    assert [each.id for each in parsed.records()] == [deep["id"]]
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(MemosError):
        files.read(path)


def test_json_lines_of_conversations_are_read(files: ForeignFiles, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    chats = [exports.claude_conversation(f"c{n}") for n in range(3)]
    lines = [json.dumps(each) for each in chats]
    path.write_text("\n".join([lines[0], "{", "", lines[1], lines[2]]))
    parsed = files.read(path)
    assert [e.id for e in parsed.records() if isinstance(e, Chat)] == ["c0", "c1", "c2"]
    assert left_out(parsed)["record"] == 1


# -- any file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither JSON nor a zip"),
        (b"hello", "neither JSON nor a zip"),
        (b"\xff\xfe\x00", "neither JSON nor a zip"),
        (b"[", "truncated"),
        (b'[{"mapping": {', "truncated"),
        (b"[1, 2]", "of no known kind"),
        (b'[{"a": 1}]', "of no known kind"),
        (b'{"results": []}', "of no known kind"),
        (b'{"results": ', "not valid JSON"),
        (b"PK\x03\x04garbage", "damaged one"),
        (b"%PDF-1.7", "memos import document"),
    ],
)
def test_a_bad_file_is_refused_with_what_to_do(
    files: ForeignFiles, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(MemosError, match=said):
        files.read(path)
    with pytest.raises(BadRequest, match="cannot read"):
        files.read(tmp_path / "absent")


def test_a_format_that_is_named_goes_before_the_content(
    files: ForeignFiles, tmp_path: Path
) -> None:
    shape = [{"id": "1", "memory": "Has a dog", "metadata": {}}]
    path = exports.write_json(tmp_path / "m.json", shape)
    assert files.read(path).kind == "memos"
    assert files.read(path, "mem0").kind == "mem0"
    parsed = files.read(path, "claude")
    assert list(parsed.records()) == []
    assert left_out(parsed) == {"record": 1}


def test_elements_of_a_list_are_split_wherever_the_chunks_end() -> None:
    values: list[Any] = [{"a": '["\\",{'}, [1, [2, "]"]], "x\\", 3, None, {"k\u2028": {}}, ""]
    text = f" \ufeff[ {', '.join(json.dumps(each, ensure_ascii=False) for each in values)} ]"
    text = text.replace(" \ufeff", "\ufeff ")
    for size in (1, 2, 3, 7, 1000):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        waiting = iter([chunks[0] + "".join(chunks[1:4]), *chunks[4:]])
        found = list(list_elements(lambda _, w=waiting: next(w, ""), "f"))  # type: ignore[misc]
        assert [json.loads(each) for each in found] == values
    assert list(list_elements(iter(["[]", ""]).__next__.__call__ and (lambda _: "[]"), "f")) == []


def test_what_a_file_gives_is_limited(tmp_path: Path) -> None:
    many = [exports.chatgpt_conversation(f"c{n}") for n in range(50)]
    path = exports.write_json(tmp_path / "c.json", many)
    for limits, said in (
        ({"output_bytes": 2000}, "output_bytes"),
        ({"text_bytes": 99}, "text_bytes"),
    ):
        small = ForeignFiles(ImportsConfig(**limits))
        try:
            with pytest.raises(TooLarge, match=said):
                small.read(path)
        finally:
            small.close()
