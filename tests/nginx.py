"""nginx with one of deploy/'s configurations."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


@contextmanager
def nginx(name: str, folder: Path, ports: Mapping[str, int]) -> Iterator[httpx.Client]:
    """Run it on a free port of loopback; skips the test where nginx is not installed.

    Args:
        name: of the configuration.
        ports: on loopback, of the hosts that it names, as `host:port`.
    """
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = (DEPLOY / name).read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
    for host, to in ports.items():
        assert host in text
        text = text.replace(host, f"127.0.0.1:{to}")
    folder.mkdir(exist_ok=True)
    paths = "".join(
        f"{each}_temp_path {folder / each};\n"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{text}\n}}\n"
    )
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=180) as client:
            for _ in range(100):
                if process.poll() is not None:
                    pytest.fail((folder / "error.log").read_text())
                try:
                    client.post("/v1/ready")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            yield client
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)
