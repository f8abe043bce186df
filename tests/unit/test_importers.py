"""Importers: content, order and names of their cubes, and errors for bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import BadRequest
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.locomo import locomo_source, parse_time, read_conversations
from memos_vllm.importers.source import ImportedCube, ImportSource, import_name


def locomo_conversation(
    sample: str, a: str, b: str, sessions: int = 2, turns: int = 3
) -> dict[str, Any]:
    talk: dict[str, Any] = {"speaker_a": a, "speaker_b": b}
    for session in range(1, sessions + 1):
        talk[f"session_{session}_date_time"] = f"1:{session:02} pm on 8 May, 2023"
        talk[f"session_{session}"] = [
            {
                "speaker": (a, b)[n % 2],
                "dia_id": f"D{session}:{n + 1}",
                "text": f"{sample} {session} {n}",
            }
            for n in range(turns)
        ]
    talk["session_99_date_time"] = "1:00 am on 9 May, 2023"  # the data set dates sessions it lacks
    return {"sample_id": sample, "conversation": talk, "qa": []}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(f"{v if isinstance(v, str) else json.dumps(v)}\n" for v in values))
    return path


def items(cube: ImportedCube) -> list[Item]:
    content = cube.new.payload.content
    assert isinstance(content, list)
    return content


def names(source: ImportSource) -> list[str | None]:
    return [cube.new.meta.name for cube in source.cubes()]


# -- LoCoMo ---------------------------------------------------------------------------------------


def test_locomo_makes_one_cube_per_session_for_both_speakers(tmp_path: Path) -> None:
    file = write(tmp_path / "l.json", [locomo_conversation("conv-1", "Ann", "Bob")])
    source = locomo_source(file)
    cubes = list(source.cubes())
    assert source.total == len(cubes) == 4
    assert [(c.new.meta.person, c.new.meta.name) for c in cubes] == [
        ("Ann", "locomo:conv-1:session_1"),
        ("Ann", "locomo:conv-1:session_2"),
        ("Bob", "locomo:conv-1:session_1"),
        ("Bob", "locomo:conv-1:session_2"),
    ]
    first = items(cubes[0])
    assert [i.source for i in first] == ["D1:1", "D1:2", "D1:3"]
    assert first[1].speaker == "Bob"
    assert first[1].type is ItemType.EPISODE
    assert first[1].time == datetime(2023, 5, 8, 13, 1, 1, tzinfo=UTC)


def test_locomo_person_gets_the_whole_conversation_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "l.json", [locomo_conversation("conv-1", "Ann", "Bob")])
    assert {c.new.meta.person for c in locomo_source(file, "1", "Zoe").cubes()} == {"Zoe"}


def test_locomo_two_people_of_one_name_stay_two_persons(tmp_path: Path) -> None:
    talks = [
        locomo_conversation("conv-1", "John", "Bob"),
        locomo_conversation("conv-2", "Ann", "John"),
    ]
    source = locomo_source(write(tmp_path / "l.json", talks))
    persons = {c.new.meta.person for c in source.cubes()}
    assert persons == {"John (conv-1)", "Bob", "Ann", "John (conv-2)"}
    one = locomo_source(tmp_path / "l.json", "conv-2")
    assert {c.new.meta.person for c in one.cubes()} == {"Ann", "John (conv-2)"}


def test_locomo_shared_image_is_told_by_its_caption(tmp_path: Path) -> None:
    talk = locomo_conversation("conv-1", "Ann", "Bob", sessions=1, turns=1)
    talk["conversation"]["session_1"][0] |= {
        "text": "Look!",
        "blip_caption": "a cat",
        "img_url": ["u"],
    }
    file = write(tmp_path / "l.json", [talk])
    assert items(next(locomo_source(file).cubes()))[0].text == "Look! [shares an image: a cat]"


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("12:05 am on 1 January, 2024", 0),
        ("12:05 pm on 1 January, 2024", 12),
        ("1:05 pm on 1 january, 2024", 13),
    ],
)
def test_locomo_time_is_read_without_the_locale(text: str, hour: int) -> None:
    assert parse_time(text) == datetime(2024, 1, 1, hour, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["conversation"].pop("speaker_b"), "conversation 1 .*no field 'speaker_b'"),
        (lambda t: t["conversation"].update(session_1_date_time="yesterday"), "yesterday"),
        (lambda t: t["conversation"]["session_1"][0].pop("dia_id"), "turn field dia_id"),
        (lambda t: t.pop("conversation"), "no field 'conversation'"),
    ],
)
def test_locomo_error_names_conversation_and_field(
    tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    talk = locomo_conversation("conv-1", "Ann", "Bob")
    change(talk)
    with pytest.raises(BadRequest, match=said):
        read_conversations(write(tmp_path / "l.json", [talk]))


def test_locomo_unknown_conversation_lists_the_known_ones(tmp_path: Path) -> None:
    file = write(tmp_path / "l.json", [locomo_conversation("conv-7", "Ann", "Bob")])
    with pytest.raises(BadRequest, match="1 to 1, or one of conv-7"):
        locomo_source(file, "2")


# -- JSON lines -----------------------------------------------------------------------------------


def test_jsonl_groups_by_person_and_session_in_full_cubes(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "notes.jsonl",
        {"text": "a1", "person": "ann", "session": "s"},
        {"text": "b1", "person": "bob"},
        {"text": "a2", "person": "ann", "session": "s", "tags": ["x"]},
        "",
        {"text": "a3", "person": "ann", "session": "s", "speaker": "Ann"},
    )
    source = jsonl_source(file, None, items_per_cube=2)
    got = [(c.new.meta.person, c.new.meta.name, [i.text for i in items(c)]) for c in source.cubes()]
    assert source.total == 3
    assert got == [
        ("ann", "jsonl:s:1", ["a1", "a2"]),
        ("bob", "jsonl:notes:1", ["b1"]),
        ("ann", "jsonl:s:2", ["a3"]),
    ]
    first, _, last = source.cubes()
    assert first.new.meta.tags == ["import", "jsonl", "x"]
    assert items(first)[0].type is ItemType.PASSAGE
    assert items(last)[0].type is ItemType.EPISODE


def test_jsonl_lines_without_person_are_announced_as_shared(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "n.jsonl", {"text": "a"}, {"text": "b", "person": "ann"})
    assert "1 of 2 cubes name no person" in jsonl_source(file, None, 8).notes[0]
    assert jsonl_source(file, "zoe", 8).notes == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", r"n\.jsonl:2: not valid JSON .* each line must hold one JSON object"),
        ("[1]", r"n\.jsonl:2: a JSON object is needed, not list"),
        ({"text": " "}, r"n\.jsonl:2: `text`: .*give each line a text, or remove the line"),
        ({"person": "x"}, r"n\.jsonl:2: `text`: Field required"),
        (
            {"text": "a", "speeker": "x"},
            r"n\.jsonl:2: unknown key `speeker`; did you mean `speaker`",
        ),
        ({"text": "a", "time": "noon"}, r"n\.jsonl:2: `time`: .*correct it or leave `time` out"),
    ],
)
def test_jsonl_bad_line_is_named_before_anything_is_imported(
    tmp_path: Path, line: Any, said: str
) -> None:
    file = write_lines(tmp_path / "n.jsonl", {"text": "good"}, line)
    with pytest.raises(BadRequest, match=said):
        jsonl_source(file, None, 8)


def test_jsonl_empty_and_unreadable_files_are_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="the file has no line to import"):
        jsonl_source(write_lines(tmp_path / "e.jsonl", ""), None, 8)
    with pytest.raises(BadRequest, match=r"cannot read .*No such file"):
        jsonl_source(tmp_path / "absent.jsonl", None, 8)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(BadRequest, match="not UTF-8 text"):
        jsonl_source(tmp_path / "latin.jsonl", None, 8)


def test_invalid_names_become_digests() -> None:
    assert import_name("jsonl", "notes 2024", "1") == "jsonl:notes 2024:1"
    odd = import_name("jsonl", "a/b\n", "1")
    assert "/" not in odd
    assert "\n" not in odd
    assert odd != import_name("jsonl", "a/c\n", "1")
