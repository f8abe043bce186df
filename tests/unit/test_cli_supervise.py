"""`memos serve --restart`: small servers that die, hang and are stopped, below the real supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from memos_vllm.cli.serve import health_of
from memos_vllm.cli.supervise import end_group, members
from memos_vllm.lifeline import has_ended
from tests.unit.test_demo_server import port as port

SERVER = """
import http.server, os, pathlib, subprocess, sys, threading, time
port, folder, what = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with (folder / "starts").open("a") as starts:
    print(os.getpid(), child.pid, file=starts)
if what == "never":
    raise SystemExit(7)
class Health(http.server.BaseHTTPRequestHandler):
    answered = 0
    def do_GET(self):
        Health.answered += 1
        if what == "hangs" and Health.answered > 1:
            time.sleep(600)
        self.send_response(200); self.end_headers()
        if what == "dies" and Health.answered > 1:
            os._exit(3)
        if what == "ends" and Health.answered > 1:
            os._exit(0)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
SUPERVISOR = """
import os, sys
from memos_vllm.cli import supervise
from memos_vllm.config.serve import ServeConfig
supervise.LOOK_SECONDS = supervise.PROBE_SECONDS = 0.1
supervise.LONGEST_DELAY_SECONDS = 0.1
settings = ServeConfig(restart_limit=2, stall_seconds=1.0, start_seconds=20.0)
health = supervise.Health(f"http://127.0.0.1:{sys.argv[1]}")
command = [sys.executable, *sys.argv[2:]]
sys.exit(supervise.Supervisor(command, os.environ, health, settings).run())
"""
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def supervised(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts a supervisor of a server that behaves as named."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUPERVISOR, str(port)]
        command += [str(script), str(port), str(tmp_path), what]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def starts(folder: Path) -> list[list[int]]:
    """(server, its child) of each start."""
    path = folder / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [[int(word) for word in line.split()] for line in lines]


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if not has_ended(psutil.Process(pid)):
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_server_that_dies_is_started_again_and_after_the_limit_its_code_is_returned(
    supervised: Start, tmp_path: Path
) -> None:
    process = supervised("dies")
    assert process.wait(60) == 3
    assert process.stderr is not None
    said = process.stderr.read()
    assert said.count("it is started again") == 2
    assert "3 times in a row: not started again" in said
    ran = starts(tmp_path)
    assert len(ran) == 3
    assert not alive([pid for pair in ran for pid in pair]), "children of a dead server, too"


def test_a_server_that_never_started_is_not_started_again(
    supervised: Start, tmp_path: Path
) -> None:
    assert supervised("never").wait(60) == 7
    assert len(starts(tmp_path)) == 1
    assert not alive(starts(tmp_path)[0])


def test_a_server_that_ends_on_purpose_is_not_started_again(
    supervised: Start, tmp_path: Path
) -> None:
    assert supervised("ends").wait(60) == 0
    assert len(starts(tmp_path)) == 1


def test_a_server_that_stops_answering_is_killed_and_started_again(
    supervised: Start, tmp_path: Path
) -> None:
    process = supervised("hangs")
    wait_for(lambda: len(starts(tmp_path)) == 2)
    assert not alive(starts(tmp_path)[0])
    assert process.poll() is None
    assert process.wait(60) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_forwarded_and_nothing_is_left(
    supervised: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = supervised("serves")
    wait_for(lambda: starts(tmp_path))
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert len(starts(tmp_path)) == 1
    assert not alive(starts(tmp_path)[0])


def test_the_server_ends_with_a_supervisor_that_is_killed(
    supervised: Start, tmp_path: Path
) -> None:
    process = supervised("serves")
    wait_for(lambda: starts(tmp_path))
    server, child = starts(tmp_path)[0]
    process.kill()
    wait_for(lambda: not alive([server]), 5)
    os.kill(child, signal.SIGKILL)  # has no lifeline; those of the real server have one
    wait_for(lambda: not list(members(server)), 5)


MAIN_THREAD_ENDS = """
import ctypes, socket, sys, threading, time
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=time.sleep, args=(600,)).start()
print("listens", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="states of threads are Linux's")
def test_a_process_whose_main_thread_has_ended_holds_its_port_until_the_group_has_ended(port: int):
    command = [sys.executable, "-c", MAIN_THREAD_ENDS, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert alive([process.pid])
        assert [each.pid for each in members(process.pid)] == [process.pid]
        end_group(process)
        socket.create_server(("127.0.0.1", port)).close()
    assert not alive([process.pid])


@pytest.mark.parametrize(
    ("flags", "url", "uds"),
    [
        ([], "http://127.0.0.1:8000", None),
        (["--host", "0.0.0.0", "--port=9000"], "http://127.0.0.1:9000", None),
        (["--host", "::", "--port", "1"], "http://[::1]:1", None),
        (["--host", "10.1.2.3"], "http://10.1.2.3:8000", None),
        (["--host", "fe80::1"], "http://[fe80::1]:8000", None),
        (["--ssl-certfile", "c.pem"], "https://127.0.0.1:8000", None),
        (["--uds", "s.sock"], "http://127.0.0.1:8000", "s.sock"),
    ],
)
def test_the_address_of_the_probe_follows_the_flags(
    flags: list[str], url: str, uds: str | None
) -> None:
    health = health_of(flags)
    assert (health.url, health.uds) == (url, uds)
