"""`memos doctor`: its findings on a working and on a broken installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from memos_vllm.cli import checks
from memos_vllm.cli.main import app
from memos_vllm.config.load import load_config
from memos_vllm.config.serve import ServeConfig
from memos_vllm.config.tree import Config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.plaintext.reader import exam
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.system import MemorySystem


def _doctor(tmp_path: Path, code: int, **settings: Any) -> dict[str, dict[str, str]]:
    tree = {
        "home": str(tmp_path / "home"),
        "embedder": {"model": str(demo_embedder_path()), "processes": 0},
    }
    file = tmp_path / "memos.yaml"
    file.write_text(yaml.safe_dump(tree | settings))
    result = CliRunner().invoke(app, ["doctor", "--json", "--config", str(file)])
    assert result.exit_code == code, result.output
    report = json.loads(result.stdout)
    assert report["healthy"] is (code == 0)
    return {check["subject"]: check for check in report["checks"]}


def test_a_new_installation_is_healthy_and_doctor_creates_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "entry_points", lambda **_: ("found",))
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    found = _doctor(tmp_path, 0)
    assert found["embedder"]["status"] == "ok"
    assert found["database"]["status"] == "note"
    assert found["plaintext memory"]["status"] == "ok"
    assert found["activation memory"]["status"] == "ok"
    assert "--enable-lora" in found["parametric memory"]["remedy"]
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_an_installation_in_use_by_a_server_is_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "entry_points", lambda **_: ("found",))
    monkeypatch.setattr(
        checks, "_embedder", lambda _: checks.Check("embedder", "ok", "checked in another test")
    )
    config = load_config(overrides={"home": str(tmp_path / "home")})
    MemorySystem(config).open().close()
    index = VectorIndex(config)
    index.ping()
    try:
        found = _doctor(tmp_path, 0)
    finally:
        index.close()
    assert found["database"]["status"] == "ok"
    assert found["keys"]["status"] == "warning"
    assert "memos keys create" in found["keys"]["remedy"]
    assert "in use by a running server" in found["Chroma"]["found"]


@pytest.mark.slow
def test_broken_parts_have_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "entry_points", lambda **_: ())
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = _doctor(
        tmp_path,
        1,
        embedder={"model": str(tmp_path)},
        chroma={"mode": "http", "port": 9},
        database={"url": "postgresql+psycopg://127.0.0.1:9/memos", "busy_timeout_seconds": 1},
    )
    broken = {name for name, check in found.items() if check["status"] == "broken"}
    assert broken == {
        "vllm.endpoint_plugins",
        "vllm.general_plugins",
        "database",
        "Chroma",
        "embedder",
    }
    assert all(found[name]["remedy"] for name in broken)
    assert "VLLM_PLUGINS=other,memos" in found["VLLM_PLUGINS"]["remedy"]


def test_a_home_that_is_a_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    assert checks.check_home(_config(tmp_path)).status == "broken"


@pytest.mark.parametrize(
    ("release", "tested"),
    [
        ("0.25.9", False),
        ("0.26.0", True),
        ("0.33.1.post1", True),
        ("0.34.0rc1", False),
        ("1.0", False),
    ],
)
def test_tested_range_of_vllm(release: str, tested: bool) -> None:
    assert checks.is_tested(release) is tested


@pytest.mark.parametrize(
    ("cuda", "flags", "status"),
    [(True, {}, "ok"), (False, {}, "note"), (False, {"block_size": 32}, "ok")],
)
def test_block_size_is_advised_on_a_cpu(
    tmp_path: Path, cuda: bool, flags: dict[str, Any], status: str
) -> None:
    config = _config(tmp_path).model_copy(update={"serve": ServeConfig(flags=flags)})
    device = list(checks.check_features(config, cuda))[-1]
    assert (device.subject, device.status) == ("device", status)


def _config(tmp_path: Path) -> Config:
    return load_config(overrides={"home": str(tmp_path / "home")})


def test_doctor_shows_the_reader_in_force_and_the_marks_of_the_exam(tmp_path: Path) -> None:
    assert "sits its exam" in _doctor(tmp_path, 0)["reader"]["found"]
    folder = tmp_path / "home" / "exams"
    folder.mkdir(parents=True)
    marks = {"facts": 33, "facts_kept": 3, "items": 4, "asked": 16, "of": 44}
    record = {
        "model": "m",
        "sat": "2026-01-02T03:04:05Z",
        "version": "v",
        "forms": {"alone": marks},
    }
    (folder / f"m-{exam.version()}.json").write_text(json.dumps(record))
    check = _doctor(tmp_path, 0)["reader"]
    assert check["status"] == "note"
    assert "failed its exam" in check["found"]
    assert "facts 3/33" in check["found"]
    assert check["remedy"]
    assert _doctor(tmp_path, 0, reader={"mode": "fast"})["reader"]["status"] == "ok"
