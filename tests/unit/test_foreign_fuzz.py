"""Exports with values of every other shape: no error but ours, and one bad record stops no other."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.config.imports import ImportsConfig
from memos_vllm.errors import MemosError
from memos_vllm.importers.foreign.child import read
from memos_vllm.importers.foreign.parser import Parsed
from memos_vllm.importers.foreign.reading import FOREIGN
from memos_vllm.importers.foreign.records import Chat
from memos_vllm.importers.foreign.source import foreign_source
from memos_vllm.importers.skipped import Group, Skipped
from tests.unit import exports

ORDER = ImportsConfig().model_dump() | {"format": "auto"}
SHAPES: list[Any] = [
    [exports.chatgpt_conversation("good"), exports.chatgpt_conversation("bad")],
    [exports.claude_conversation("good"), exports.claude_conversation("bad")],
    exports.CLAUDE_PROJECTS,
    {**exports.MEM0_ALL, "history": exports.MEM0_HISTORY},
    exports.MEM0_HISTORY,
    exports.memos_tree(),
    exports.memos_vectors(),
]
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e300,
    10**18,
    "",
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    [{}],
    {"": []},
]
ODD += ["a" * 3000, "é", [None], {"text": 7}, {"parts": {}}, [["x"]], {"uuid": []}]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values inside."""
    found = [path] if path else []
    if isinstance(tree, dict):
        children = list(tree.items())
    else:
        children = list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in children:
        found += places(value, (*path, key))
    return found


def change(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = copy.deepcopy(value)


def parsed(path: Path) -> Parsed:
    answer, body = read({**ORDER, "path": str(path)}, b"")
    return Parsed(answer["kind"], body, Skipped(Group(**each) for each in answer["left_out"]))


def problem_of(tree: Any, shape: int) -> str | None:
    """Why a file is refused; None: something in it is imported."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f.json"
        file.write_text(json.dumps(tree))
        try:
            found = parsed(file)
            if found.kind not in FOREIGN:
                return None
            source = foreign_source(file, found, "alice", 3)
        except MemosError as error:
            return error.message
        cubes = list(source.cubes())
        assert len(cubes) == source.total
        assert all(cube.new.meta.person == "alice" for cube in cubes)
        if shape < 2:
            assert "good" in {each.id for each in found.records() if isinstance(each, Chat)}
        return None


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SHAPES) - 1), st.integers(0, 2**32), st.integers(1, 4))
def test_no_shape_of_a_value_is_an_unknown_error(shape: int, seed: int, changes: int) -> None:
    dice = random.Random(seed)
    tree = copy.deepcopy(SHAPES[shape])
    for _ in range(changes):
        # Of two conversations, the second one is damaged.
        found = [path for path in places(tree) if shape >= 2 or path[0] == 1]
        change(tree, dice.choice(found), dice.choice(ODD))
    problem = problem_of(tree, shape)
    assert problem is None or (problem and shape >= 2), problem
