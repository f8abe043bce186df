"""`serve.py` passes its flags to vLLM, which reports those that it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
