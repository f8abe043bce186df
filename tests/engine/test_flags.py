"""Starts that do not come to their end: an unknown flag, which vLLM reports, and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from memos_vllm.cli.supervise import members
from tests.engine.harness import Server, wait_for

SERVE = Path(__file__).parents[2] / "serve.py"


def test_an_unknown_flag_is_vllms_own_error(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SERVE), "some-model", "--no-such-flag", "7"],
        env={**os.environ, "MEMOS__HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-flag" in done.stderr


def test_a_server_that_is_told_to_end_while_it_starts_ends_in_seconds(tmp_path):
    server = Server(tmp_path, home=tmp_path / "home")
    with mock.patch.object(Server, "_wait"):
        server.start()
    group = server._process.pid
    try:
        wait_for(lambda: "EngineCore pid=" in server.log(), "the start of the engine")
        os.kill(group, signal.SIGTERM)
        wait_for(lambda: not list(members(group)), "the end of all processes", 15)
        assert "told to end while it started" in server.log()
        assert "startup complete" not in server.log()
    finally:
        server.kill()
