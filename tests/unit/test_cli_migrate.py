"""`memos export --person` and `memos import FILE` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from tests.unit import exports
from tests.unit.test_cli import Memos, memos, settings
from tests.unit.test_importers import write_lines

__all__ = ["memos", "settings"]


def test_any_file_is_told_by_its_content_and_imported_once(memos: Memos, tmp_path: Path) -> None:
    gpt = exports.chatgpt_zip(tmp_path / "export.zip")
    refused = memos("import", str(gpt), code=1)
    assert "say with --person" in refused.stderr
    report = tmp_path / "left_out.json"
    done = memos("import", str(gpt), "--person", "ann", "--report", str(report))
    assert "1 cubes created" in done.stderr
    assert "left out: 1 × image: the export refers to it" in done.stderr
    assert {each["what"] for each in json.loads(report.read_text())} >= {"image", "message"}
    assert "is imported already" in memos("import", str(gpt), "--person", "ann").stderr
    again = memos("import", str(gpt), "--person", "ann", "--again")
    assert "0 cubes created, 0 extended, 1 already stored" in again.stderr
    found = memos("search", "What is my cat called?", "--person", "ann", "--json").stdout
    assert "Miso" in found
    lines = write_lines(tmp_path / "n.jsonl", {"text": "a note", "person": "ann"})
    assert "1 cubes created" in memos("import", str(lines)).stderr
    dump = exports.write_json(tmp_path / "m.json", exports.MEM0_ALL)
    assert "cubes created" in memos("import", str(dump), "--format", "mem0").stderr
    assert "there are auto" in memos("import", str(dump), "--format", "notes", code=1).stderr
    assert "cannot read" in memos("import", str(tmp_path / "absent"), code=1).stderr


def test_a_person_is_exported_imported_and_exported_again(memos: Memos, tmp_path: Path) -> None:
    memos("import", str(exports.claude_zip(tmp_path / "c.zip")), "--person", "ann")
    first, second = tmp_path / "ann.jsonl", tmp_path / "again.jsonl"
    done = memos("export", "--person", "ann", "-o", str(first))
    assert "cubes of ann (tenant local)" in done.stderr
    assert "--force" in memos("export", "--person", "ann", "-o", str(first), code=1).stderr
    assert "name one file" in memos("export", "--person", "ann", code=1).stderr
    assert "cubes of ann created" in memos("import", str(first), "--tenant", "other").stderr
    memos("export", "--person", "ann", "-o", str(second), "--tenant", "other")
    one, two = (path.read_bytes().splitlines()[1:-1] for path in (first, second))
    assert one == two
    assert "is imported already" in memos("import", str(first), "--tenant", "other").stderr
    again = memos("import", str(first), "--tenant", "other", "--again").stderr
    assert "0 cubes of ann created" in again
    helped = CliRunner().invoke(app, ["import", "--help"])
    assert "openai-chat" in helped.output


@pytest.mark.parametrize("wait", [0.0, 0.5])
def test_a_process_that_is_killed_goes_on_in_the_next_run(
    memos: Memos, settings: Path, tmp_path: Path, wait: float
) -> None:
    chats = [exports.chatgpt_conversation(f"c{n:03d}") for n in range(60)]
    path = exports.write_json(tmp_path / "conversations.json", chats)
    command = [sys.executable, "-m", "memos_vllm.cli.main", "import", str(path)]
    options = ["--person", "ann", "--config", str(settings)]
    running = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list((tmp_path / "home/imports").glob("*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(wait)
    running.kill()
    running.wait()
    done = memos("import", str(path), "--person", "ann").stderr
    assert "resuming at" in done or "60 cubes created" in done
    options = ["--person", "ann", "--limit", "500", "--json"]
    listed = json.loads(memos("cubes", "list", *options).stdout)
    names = [each["name"] for each in listed if each["name"].startswith("chatgpt:")]
    assert len(names) == len(set(names)) == 60
    archive, again = tmp_path / "ann.jsonl", tmp_path / "again.jsonl"
    memos("export", "--person", "ann", "-o", str(archive))
    command = [sys.executable, "-m", "memos_vllm.cli.main", "import", str(archive)]
    options = ["--tenant", "other", "--config", str(settings)]
    running = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and running.poll() is None:
        options = ["--tenant", "other", "--person", "ann", "--json"]
        if memos("cubes", "list", *options).stdout.count('"id"') > 5:
            break
    running.kill()
    running.wait()
    memos("import", str(archive), "--tenant", "other")
    memos("export", "--person", "ann", "-o", str(again), "--tenant", "other")
    one, two = (file.read_bytes().splitlines()[1:-1] for file in (archive, again))
    assert one == two
