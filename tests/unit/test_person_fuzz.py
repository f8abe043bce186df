"""Archives with values of every other shape: named and left out, or refused; never an unknown error."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memos_vllm.errors import MemosError
from memos_vllm.importers.person.restore import Outcome, PersonImport
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from tests.unit.persons import ADMIN, damaged, exported, lived_in
from tests.unit.test_foreign_fuzz import ODD, change, places

WHOLE = [value for value in ODD if value != "\ud800"]  # no file in UTF-8 holds it


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Records of a person with everything."""
    home = tmp_path_factory.mktemp("old")
    system = MemorySystem(make_config(home)).open()
    lived_in(system)
    exported(system, home / "a.jsonl")
    system.close()
    return [json.loads(line) for line in (home / "a.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, postgres_url: Callable[[], str]
) -> Iterator[MemorySystem]:
    home = Path(tempfile.mkdtemp())
    extra = {"database": {"url": postgres_url()}} if request.param == "postgres" else {}
    system = MemorySystem(make_config(home, **extra)).open()
    system.settle = lambda cubes: False  # type: ignore[method-assign]  # as beside a server
    yield system
    system.close()
    shutil.rmtree(home)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 6))
def test_no_shape_of_a_value_is_an_unknown_error(
    archive: list[dict[str, Any]], server: MemorySystem, seed: int, changes: int
) -> None:
    dice = random.Random(seed)
    records = copy.deepcopy(archive)
    for _ in range(changes):
        record = dice.choice(records[1:-1])
        change(record, dice.choice(places(record)), dice.choice(WHOLE))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records))

        def keep(_: list[dict[str, Any]]) -> None: ...

        person = f"p{seed}-{dice.random()}"
        file = damaged(path, keep)
        first = run(server, file, person)
        if isinstance(first, MemosError):
            assert first.status < 500, first
            return
        assert first.created + first.skipped.count() > 0
        again = run(server, file, person)
        assert isinstance(again, Outcome)
        assert (again.created, again.turns) == (0, 0)


def run(system: MemorySystem, file: Path, person: str) -> Outcome | MemosError:
    """What comes of an import, an error of ours included."""
    try:
        return PersonImport(system, dataclasses.replace(ADMIN, person=""), file, person).run()
    except MemosError as error:
        return error
