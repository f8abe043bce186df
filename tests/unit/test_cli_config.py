"""The command line and its configuration: the examples load, and mistakes are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.config.load import load_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["local", "cpu", "postgres"])
def test_example_configurations_load(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert config.home


def test_every_file_in_configs_loads() -> None:
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} >= {"local", "cpu", "postgres"}
    for path in (ROOT / "configs").glob("*.yaml"):
        load_config(path)


def test_wrong_configuration_is_one_line_without_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("hoem: /tmp")
    for arguments in (["keys", "list"], ["serve", "m"], ["doctor"], ["search", "q"]):
        result = CliRunner().invoke(app, [*arguments, "--config", str(bad)])
        assert result.exit_code == 1
        assert "unknown key `hoem`; did you mean `home`?" in result.stderr


def test_a_home_that_is_not_writable_is_one_error_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"home: {tmp_path / 'file' / 'home'}")
    result = CliRunner().invoke(app, ["keys", "list", "--config", str(bad)])
    assert result.exit_code == 1
    assert "set `home` to a" in result.stderr


@pytest.mark.slow
def test_module_is_the_command_and_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, memos_vllm.cli.main;"
        "print([m for m in ('torch', 'vllm', 'chromadb', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "vllm" not in done.stdout
    assert "chromadb" not in done.stdout
    run = [sys.executable, "-m", "memos_vllm.cli.main", "--version"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.startswith(
        "memos-vllm"
    )
