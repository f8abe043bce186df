"""The demo's child process: a dead server shows its log, and a stop leaves nothing behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_vllm.demo import server as module
from memos_vllm.demo.server import DemoServer, ServerFailed, require_free_port
from memos_vllm.errors import ConfigError

HEALTHY = """
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
print("loading weights", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""
WITH_CHILD_THAT_IGNORES_SIGTERM = '''
import subprocess, sys, time
child = """import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(99)"""
process = subprocess.Popen([sys.executable, "-c", child])
print("child", process.pid, flush=True)
time.sleep(99)
'''


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, port: int) -> Callable[[str], DemoServer]:
    def start(program: str) -> DemoServer:
        command = [sys.executable, "-c", program, str(port)]
        return DemoServer(command, os.environ, tmp_path / "log", f"http://127.0.0.1:{port}")

    return start


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_ready_when_health_answers_and_gone_after_stop(
    start: Callable[[str], DemoServer], port: int
) -> None:
    server = start(HEALTHY)
    server.wait_until_ready(lambda seconds, line: None)
    assert server.stop()
    require_free_port("127.0.0.1", port)


def test_a_server_that_dies_is_reported_with_exit_code_and_log_tail(
    start: Callable[[str], DemoServer],
) -> None:
    server = start("print('no such model', flush=True); raise SystemExit(3)")
    with pytest.raises(ServerFailed, match=r"(?s)exit code 3.*no such model"):
        server.wait_until_ready(lambda seconds, line: None)
    assert server.stop()


@pytest.mark.slow
def test_stop_kills_children_that_ignore_sigterm_and_outlive_their_parent(
    start: Callable[[str], DemoServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 1.0)
    server = start(WITH_CHILD_THAT_IGNORES_SIGTERM)
    while "deaf" not in (text := (tmp_path / "log").read_text()):
        time.sleep(0.05)
    child = int(text.split()[text.split().index("child") + 1])
    assert is_alive(child)
    assert not server.stop()
    assert not is_alive(child)


@pytest.mark.slow
def test_the_server_ends_with_a_demo_that_is_killed(tmp_path: Path, port: int) -> None:
    demo = (
        "import os, sys, time; from pathlib import Path; from memos_vllm.demo.server import DemoServer\n"
        "server = DemoServer([sys.executable, '-c', sys.argv[1], sys.argv[2]], os.environ, "
        "Path(sys.argv[3]), 'http://127.0.0.1:' + sys.argv[2])\n"
        "server.wait_until_ready(lambda seconds, line: None)\n"
        "print(server._process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", demo, HEALTHY, str(port), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        assert is_alive(server)
        process.kill()
        deadline = time.monotonic() + 10
        while is_alive(server):
            assert time.monotonic() < deadline, "the server outlives the demo"
            time.sleep(0.05)


def test_a_busy_port_is_refused_by_name() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* --port"):
            require_free_port("127.0.0.1", port)
