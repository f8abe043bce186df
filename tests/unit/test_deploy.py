"""Files under deploy/, by the tools that read them: hadolint, the Compose schema, Kubernetes' schemas, promtool, nginx."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from memos_vllm.cli.serve import split_arguments
from memos_vllm.config.load import load_config
from memos_vllm.config.tree import ServeConfig
from tests.nginx import DEPLOY, nginx

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_an_image_passes_hadolint_and_copies_what_exists(name: str) -> None:
    run(BIN / "hadolint", DEPLOY / name)
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("COPY "):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


def test_the_compose_file_fits_its_schema_and_mounts_what_exists() -> None:
    run(
        *(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        DEPLOY / "compose.yaml",
    )
    tree = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounted = [each for s in tree["services"].values() for each in s.get("volumes", ())]
    files = {each.split(":")[0] for each in mounted if each.startswith("./")}
    made_by_the_operator = {"./metrics.key"}
    assert all((DEPLOY / each).exists() for each in files - made_by_the_operator)


def test_manifests_fit_the_schemas_of_kubernetes() -> None:
    run(BIN / "kubernetes-validate", "--strict", DEPLOY / "kubernetes" / "memos.yaml")


def test_the_replicas_configuration_loads_and_their_flags_are_flags_of_serve() -> None:
    config = load_config(DEPLOY / "memos.yaml")
    assert config.chroma.mode == "http"
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes" / "memos.yaml").read_text())
    (stateful,) = [each for each in manifests if each["kind"] == "StatefulSet"]
    commands = [
        compose["services"]["memos-1"]["command"],
        stateful["spec"]["template"]["spec"]["containers"][0]["args"],
    ]
    for command in commands:
        assert command[:2] == ["--config", "/etc/memos/memos.yaml"]
        model, flags = split_arguments(command[2:], ServeConfig())
        assert model
        assert flags[:2] == ["--host", "0.0.0.0"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus's promtool is not installed"
)
def test_prometheus_reads_its_configuration_and_alerts(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(DEPLOY / name, tmp_path)
    (tmp_path / "metrics.key").write_text("memos-key")
    run("promtool", "check", "config", tmp_path / "prometheus.yml")


def test_dashboard_panels_have_a_place_and_a_query() -> None:
    panels = json.loads((DEPLOY / "grafana" / "memos.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    graphs = [panel for panel in panels if panel["type"] != "row"]
    assert graphs
    assert all(target["expr"] for panel in graphs for target in panel["targets"])


class FakeReplica(http.server.BaseHTTPRequestHandler):
    """Answers with its port and the credential that arrived; streams two parts a moment apart."""

    protocol_version = "HTTP/1.1"
    parts = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/v1/stream":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\none\r\n")
            self.wfile.flush()
            assert self.parts.wait(30)
            self.wfile.write(b"3\r\ntwo\r\n0\r\n\r\n")
            return
        answer = json.dumps(
            {"port": self.server.server_port, "key": self.headers.get("authorization")}  # type: ignore[attr-defined]
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.send_header("connection", "close")  # a replica that stops keeps no connection
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def replicas() -> Iterator[list[http.server.ThreadingHTTPServer]]:
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeReplica) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def router(
    replicas: list[http.server.ThreadingHTTPServer], tmp_path: Path
) -> Iterator[httpx.Client]:
    """nginx with deploy/nginx.conf in front of the replicas, on free ports."""
    hosts = ("memos-1:8000", "memos-2:8000")
    ports = {host: server.server_port for host, server in zip(hosts, replicas, strict=True)}
    with nginx("nginx.conf", tmp_path, ports) as client:
        yield client


def ask(router: httpx.Client, key: str, person: str | None) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"}
    if person is not None:
        headers["X-Memos-User"] = person
    reply = router.post("/v1/chat/completions", headers=headers, json={})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_a_persons_requests_go_to_one_replica_and_people_to_both(router: httpx.Client) -> None:
    ports = {person: ask(router, "k", f"u{person}")["port"] for person in range(40)}
    assert len(set(ports.values())) == 2
    assert ports == {person: ask(router, "k", f"u{person}")["port"] for person in range(40)}
    assert ask(router, "secret", "u1")["key"] == "Bearer secret", "the credential is passed on"


def test_a_replica_that_is_down_costs_no_request(
    router: httpx.Client, replicas: list[http.server.ThreadingHTTPServer]
) -> None:
    replicas[0].shutdown()
    replicas[0].server_close()
    left = {ask(router, "k", f"u{person}")["port"] for person in range(40)}
    assert left == {replicas[1].server_port}


def test_a_stream_is_not_buffered(router: httpx.Client) -> None:
    FakeReplica.parts.clear()
    with router.stream("POST", "/v1/stream", json={}) as reply:
        parts = reply.iter_raw()
        assert next(parts) == b"one", "before the second part is sent"
        FakeReplica.parts.set()
        assert b"".join(parts) == b"two"


@pytest.mark.parametrize(
    "path", ["/metrics", "/sleep", "/v1/load_lora_adapter", "/reset_prefix_cache"]
)
def test_the_operators_routes_are_closed_to_the_outside(router: httpx.Client, path: str) -> None:
    assert router.post(path).status_code == 403


def test_a_body_over_the_limit_is_refused(router: httpx.Client) -> None:
    limit = re.search(r"client_max_body_size (\d+)m", (DEPLOY / "nginx.conf").read_text())
    assert limit is not None
    size = (int(limit[1]) << 20) + 1
    host, port = router.base_url.host, router.base_url.port
    with socket.create_connection((host, port or 0), timeout=30) as connection:
        head = f"POST /v1/documents HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413"), "before the body is sent"
