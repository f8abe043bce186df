"""Archives of another model, of a full tenant, damaged and hostile ones: left out or refused, with the reason."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    NewCube,
    NewMeta,
    ParametricPayload,
)
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import BadRequest, Conflict, Forbidden, QuotaExceeded
from memos_vllm.governance.principal import Role
from memos_vllm.importers.person.export import PersonExport, export_person
from memos_vllm.importers.person.restore import PersonImport
from memos_vllm.parametric.attached import AttachedEngine
from memos_vllm.vault.served_model import ServedModels
from tests.adapters import small
from tests.conftest import principal
from tests.unit.persons import (
    ADMIN,
    ALICE,
    Systems,
    damaged,
    exported,
    imported,
    keep,
    systems,
)

__all__ = ["systems"]


def test_an_adapter_for_another_base_model_is_left_out_counted_and_named(
    systems: Systems, tmp_path: Path
) -> None:
    old, same, other, unknown = (systems(name) for name in ("old", "same", "other", "unknown"))
    adapter = ParametricPayload(type="parametric", content=small())
    served = SimpleNamespace(fingerprint="base-1", max_rank=8, check=lambda adapter: None)
    old.attach_engine(AttachedEngine(served))
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")
    ServedModels(same.database).note("base-1")
    ServedModels(other.database).note("base-2")
    assert imported(same, tmp_path / "a.jsonl").created == 2
    assert same.vault.get(ALICE, "voice").meta.model_fingerprint == "base-1"
    assert imported(unknown, tmp_path / "a.jsonl").created == 2
    outcome = imported(other, tmp_path / "a.jsonl")
    (left,) = outcome.skipped.groups()
    assert (left.what, left.count, left.names) == ("adapter", 1, ["voice"])
    assert "another base model" in left.reason
    assert outcome.created == 1
    assert old.vault.file(ALICE, "voice") == same.vault.file(ALICE, "voice")


def test_only_an_admin_exports_and_imports(systems: Systems, tmp_path: Path) -> None:
    old = systems("old")
    keep(old, "I like tea.")
    exported(old, tmp_path / "a.jsonl")
    for role in (Role.READER, Role.WRITER):
        with pytest.raises(Forbidden):
            PersonExport(old, principal("alice", role=role))
        with pytest.raises(Forbidden):
            PersonImport(old, principal("alice", role=role), tmp_path / "a.jsonl")
    with pytest.raises(Conflict, match="--force"):
        export_person(old, ADMIN, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], "truncated"),
        (lambda text: text.replace("I like tea.", "I like rum."), "not as it was written"),
        (lambda text: text.replace('"version": 1', '"version": 2', 1), "archive version 2"),
        (lambda text: text + "{}\n", "behind the end"),
        (lambda text: '{"format": "memos-cubes"}\n', "no archive of a person"),
        (lambda text: "", "no archive of a person"),
        (lambda text: "[1]\n", "no record"),
        (lambda text: "PK", "not valid JSON"),
    ],
)
def test_a_bad_file_is_refused_as_a_whole_with_what_to_do(
    systems: Systems, tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    old, new = systems("old"), systems("new")
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(change((tmp_path / "a.jsonl").read_text()))
    with pytest.raises(BadRequest, match=said):
        imported(new, bad)
    assert exported(new, tmp_path / "n.jsonl")[-1]["cubes"] == 0


def test_one_bad_cube_stops_no_other_and_is_named(systems: Systems, tmp_path: Path) -> None:
    old, new = systems("old"), systems("new")
    for number in range(4):
        keep(old, f"I like tea {number}.", name=f"c{number}")
    adapter = ParametricPayload(type="parametric", content=small())
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    exported(old, tmp_path / "a.jsonl")

    def change(records: list[dict[str, Any]]) -> None:
        cubes = {each["name"]: each for each in records if each.get("record") == "cube"}
        cubes["c0"]["state"] = "haunted"
        cubes["c1"]["id"] = "../../etc"
        versions = [each for each in records if each.get("record") == "versions"]
        versions[2]["versions"][0]["runs"] = [[0, 99]]
        file = next(each for each in records if each.get("record") == "file")
        file["data"] = base64.b64encode(b"other bytes").decode()

    outcome = imported(new, damaged(tmp_path / "a.jsonl", change))
    assert outcome.created == 1
    names = {name for group in outcome.skipped.groups() for name in group.names}
    assert names == {"c0", "c1", "c2", "voice"}
    assert all(group.reason for group in outcome.skipped.groups())


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0[[]]trailing"]
)
def test_a_hostile_adapter_is_left_out_and_costs_itself(
    systems: Systems, tmp_path: Path, data: bytes
) -> None:
    old, new = systems("old"), systems("new")
    adapter = ParametricPayload(type="parametric", content=small())
    old.create(ALICE, [NewCube(meta=NewMeta(name="voice"), payload=adapter)])
    keep(old, "I like tea.", name="tea")
    exported(old, tmp_path / "a.jsonl")

    def change(records: list[dict[str, Any]]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        for each in records:
            if each.get("record") == "file":
                each.update(sha256=digest, data=base64.b64encode(data).decode())
            if each.get("record") == "versions" and each["versions"][0].get("file"):
                each["versions"][0]["file"] = digest

    outcome = imported(new, damaged(tmp_path / "a.jsonl", change))
    assert [(g.what, g.names) for g in outcome.skipped.groups()] == [("adapter", ["voice"])]
    assert outcome.created == 1


def test_times_of_the_future_are_now_and_an_erased_person_returns_whole(
    systems: Systems, tmp_path: Path
) -> None:
    system = systems("one")
    keep(system, "I like tea.", name="tea")
    exported(system, tmp_path / "a.jsonl")

    def late(records: list[dict[str, Any]]) -> None:
        records[1]["updated"] = records[1]["created"] = "2999-01-01T00:00:00Z"
        records[3]["versions"][0]["created"] = "2999-01-01T00:00:00Z"

    file = damaged(tmp_path / "a.jsonl", late)
    system.delete(ALICE, "tea")
    imported(system, file)
    assert system.vault.get(ALICE, "tea").meta.updated <= to_datetime(now_us())
    assert Eraser(system).request(ADMIN, "alice").id
    imported(system, file)
    assert system.vault.get(ALICE, "tea").items[0].text == "I like tea."


def test_a_full_quota_stops_the_import_and_the_next_run_goes_on(
    systems: Systems, tmp_path: Path
) -> None:
    old = systems("old")
    new = systems("new", governance={"limits": {"person_cubes": 2}})
    for number in range(4):
        keep(old, f"I like tea {number}.", name=f"c{number}")
    exported(old, tmp_path / "a.jsonl")
    with pytest.raises(QuotaExceeded):
        imported(new, tmp_path / "a.jsonl")
    assert exported(new, tmp_path / "n.jsonl")[-1]["cubes"] == 2
