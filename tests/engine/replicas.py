"""Two servers with one memory: Postgres, a Chroma server, one folder; and vllm-router in front of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.chroma import Chroma
from tests.engine.harness import Server, free_port, wait_for


class Replicas:
    """Two replicas on one machine; each has a home of its own."""

    def __init__(self, folder: Path, database_url: str, flags: tuple[str, ...] = ()) -> None:
        """
        Args:
            flags: of both servers.
        """
        self.folder, self.shared = folder, folder / "shared"
        self.shared.mkdir()
        self.chroma = Chroma(folder / "chroma")
        self.environment = {
            "MEMOS__DATABASE__URL": database_url,
            "MEMOS__PAYLOADS__URL": str(self.shared / "payloads"),
            "MEMOS__KV__PATH": str(self.shared / "kv"),
            "MEMOS__CHROMA__MODE": "http",
            "MEMOS__CHROMA__PORT": str(self.chroma.port),
            "MEMOS__GOVERNANCE__AUDIT__KEY_FILE": str(self.shared / "audit.keys"),
        }
        self.settings: dict[str, Any] = {
            "database": {"url": database_url},
            "payloads": {"url": str(self.shared / "payloads")},
            "chroma": {"mode": "http", "port": self.chroma.port},
            "governance": {"audit": {"key_file": str(self.shared / "audit.keys")}},
        }
        """Of the memory that both have in common, beside `environment`, which says the same and more."""
        self.environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
        self._flags = flags
        self.servers = [self.server(name, REPLICA=name) for name in ("one", "two")]
        self._keys = self._make_keys()

    @property
    def key(self) -> str:
        """A writer's of the tenant `acme`."""
        return self._keys["acme"]

    @property
    def admin(self) -> str:
        """An admin's of the tenant `acme`."""
        return self._keys["admin"]

    def server(self, name: str, **environment: str) -> Server:
        """A replica that is not started yet."""
        home = self.folder / name / "home"
        home.mkdir(parents=True)
        own = {"MEMOS__KV__RAM_PATH": str(self.folder / name), **environment}
        return Server(
            self.folder / name, home=home, environment=self.environment | own, flags=self._flags
        )

    def _make_keys(self) -> dict[str, str]:
        overrides = {"home": str(self.folder / "keys"), **self.settings}
        del overrides["chroma"]  # it may not run yet
        system = MemorySystem(load_config(overrides=overrides)).open()
        try:
            return {
                "acme": system.keys.create("acme", Role.WRITER)[1],
                "admin": system.keys.create("acme", Role.ADMIN)[1],
                "operator": system.keys.create("operator", Role.ADMIN)[1],
            }
        finally:
            system.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Replicas]:
        self.chroma.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(len(self.servers)) as pool:
                list(pool.map(Server.start, self.servers))
            for server in self.servers:
                server.operator_key = self._keys["operator"]
            yield self
        finally:
            for server in self.servers:
                server.kill(signal.SIGTERM)
            self.chroma.kill()


class Traces:
    """An OTLP collector: an ASGI app that keeps the spans it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if dict(scope["headers"]).get(b"content-encoding") == b"gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in resource.scope_spans:
                self.spans.extend(of_scope.spans)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def of(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}


class Router:
    """vllm-router, with one replica for each value of `X-Session-ID`."""

    def __init__(self, replicas: Replicas) -> None:
        self.port, self.url = (port := free_port()), f"http://127.0.0.1:{port}"
        self._log = replicas.folder / "router.log"
        self._urls = [server.url for server in replicas.servers]
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Router]:
        command = [
            *(sys.executable, "-m", "vllm_router.launch_router"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--worker-urls", *self._urls, "--policy", "consistent_hash"),
            *("--cb-failure-threshold", "3", "--cb-timeout-duration-secs", "10"),
            *("--prometheus-port", str(free_port())),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(self._answers, "the router's start", 60)
            yield self
        finally:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health").status_code == 200
        return False
