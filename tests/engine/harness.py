"""A real vLLM server as a child process, and clients of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from memos_vllm.cli.cpu import is_bfloat16_slow
from memos_vllm.cli.serve import CONNECTOR, TIERS
from memos_vllm.cli.supervise import end_group
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.demo.model import prepare_chat_model
from tests.engine import zygote

MODEL = "demo"
MODULE = "vllm.entrypoints.openai.api_server"
CONTEXT = 2048
MODEL_CACHE = Path(
    os.environ.get("MEMOS_TEST_CACHE", Path(tempfile.gettempdir()) / "memos-vllm-tests")
)
TIER = "MEMOS__KV__TIER"
_START_SECONDS = 480
FORKS = False
"""Set by the fixtures of tests: benchmarks start servers as users do."""
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Below the ports that Linux gives to outgoing connections, a range for each worker: a server that is
# down keeps its port.
_PORTS = range(12_000 + _WORKER % 8 * 2_000, 14_000 + _WORKER % 8 * 2_000)
_ports = itertools.cycle(random.sample(_PORTS, len(_PORTS)))


def free_port() -> int:
    """A port of this test worker that no process listens on."""
    for port in itertools.islice(_ports, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port of this worker is in use")


class Server:
    """vLLM's own server module, with the plugin (`home` is given) or without."""

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None,
        environment: dict[str, str] | None = None,
        flags: tuple[str, ...] = (),
        config: Path | None = None,
        forked: bool = True,
    ) -> None:
        """Describe a server; `start` starts it.

        Args:
            folder: where its log goes.
            home: memory's home; without one the server has no plugin.
            config: start through `serve.py --config`, which enables the plugin by itself.
            forked: in tests, of a process that has imported vLLM (`zygote`); else, and with `config`, all
                processes start as users start them.
        """
        self._config = config
        self.home = home
        self.operator_key: str | None = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"server-{self.port}.log"
        self._flags = flags
        self._environment = {
            # vLLM binds a server with a KV connector to other cores than one without: on two cores, to two and one.
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            **({"VLLM_PLUGINS": ""} if home is None else self._memory(home)),
            **(environment or {}),
        }
        if config is not None:
            del self._environment["VLLM_PLUGINS"]
        self._forked = FORKS and forked and config is None
        self._process: subprocess.Popen[bytes] | zygote.Forked | None = None

    def _connector(self) -> tuple[str, ...]:
        """The flags that `memos serve` adds by itself."""
        if self.home is None or self._config is not None:
            return ()
        connector = TIERS if self._environment.get(TIER) == "lmcache" else CONNECTOR
        return ("--kv-transfer-config", json.dumps(connector))

    @staticmethod
    def _memory(home: Path) -> dict[str, str]:
        return {
            "VLLM_PLUGINS": "memos",
            "MEMOS__HOME": str(home),
            "MEMOS__EMBEDDER__MODEL": str(demo_embedder_path()),
            # Two cores run everything: deadlines that no slow machine exceeds.
            "MEMOS__PROMPT__DEADLINE_SECONDS": "20",
            "MEMOS__REMEMBER__DURABLE_WAIT_SECONDS": "20",
            "MEMOS__KV__RAM_PATH": str(home.parent),
            "MEMOS__GOVERNANCE__KEY_CACHE_SECONDS": "0.2",
            "MEMOS__READER__MODE": "fast",  # an exam would compute beside what is measured
            "MEMOS__SERVE__WARM_UP": "false",  # so would a first chat
        }

    def set(self, **environment: str) -> None:
        """Change environment variables of the next start."""
        self._environment |= environment

    def memos(self, *arguments: str) -> str:
        """Run a command of `memos` beside the server; its output."""
        command = [sys.executable, "-m", "memos_vllm.cli.main", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> Server:
        model = str(prepare_chat_model(MODEL_CACHE))
        if self._config is None:
            start = ["--host", "127.0.0.1", "--model", model]
        else:
            start = [model, "--config", str(self._config)]
        arguments = [
            *start,
            *("--served-model-name", MODEL, "--port", str(self.port)),
            *("--max-model-len", str(CONTEXT), "--block-size", "32", "--enforce-eager"),
            *("--enable-prompt-tokens-details", "--enable-auto-tool-choice"),
            *("--tool-call-parser", "hermes"),
            *self._connector(),
            *(("--dtype", "float32") if is_bfloat16_slow() else ()),
            *self._flags,
        ]
        self._process = self._started(arguments)
        self._wait()
        return self

    def _started(self, arguments: list[str]) -> subprocess.Popen[bytes] | zygote.Forked:
        if self._forked:
            return zygote.start(MODULE, arguments, self._environment, self._log)
        serve = Path(__file__).parents[2] / "serve.py"
        program = ["-m", MODULE] if self._config is None else [str(serve)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *program, *arguments],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            time.sleep(0.5)
        tail = self.log()[-6000:]
        self.kill()
        raise AssertionError(f"the server did not start:\n{tail}")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Of the API server, which leads the group of its processes."""
        assert self._process is not None
        return self._process.pid

    def send_signal(self, sign: int) -> None:
        """Signal the whole process group, and do not wait for anything."""
        os.killpg(self.pid, sign)

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """Signal the whole process group: API server, engine core, workers."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            self._process.wait(timeout=60)
            end_group(self._process)  # a child that still ends holds the port
            self._process = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        try:
            yield self.start()
        finally:
            self.kill(signal.SIGTERM)

    # -- clients ----------------------------------------------------------------------------------

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=180)

    def http(self, key: str | None = None, person: str | None = None) -> httpx.Client:
        headers = {}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if person:
            headers["X-Memos-User"] = person
        return httpx.Client(base_url=self.url, headers=headers, timeout=180)


def chat(server: Server, key: str, person: str | None, text: str, **extra: Any) -> Any:
    """A short greedy chat through the `openai` client; extras go into the body."""
    body = {"max_tokens": 8, "temperature": 0, **extra}
    arguments = {name: body.pop(name) for name in ("max_tokens", "temperature")}
    messages = body.pop("messages", [{"role": "user", "content": text}])
    headers = body.pop("extra_headers", None)
    return server.client(key).chat.completions.create(
        model=MODEL,
        messages=messages,
        **({"user": person} if person else {}),
        **arguments,
        extra_body=body,
        extra_headers=headers,
    )


def cached_tokens(reply: Any) -> int:
    details = reply.usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details else 0


def wait_for(condition: Any, what: str, seconds: float = 120) -> Any:
    """The condition's first true value.

    Raises:
        AssertionError: the condition stays false for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {seconds} s")


def events(response: httpx.Response) -> list[str]:
    """The data of each server-sent event, in order."""
    return [line[6:] for line in response.iter_lines() if line.startswith("data: ")]


def without_time(body: str) -> Any:
    """A JSON body without its time and its server's fingerprint."""
    tree = json.loads(body)
    if isinstance(tree, dict):
        tree.pop("created", None)
        tree.pop("system_fingerprint", None)  # differs by the KV connector, and by start with one
    return tree
