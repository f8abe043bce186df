"""A real `lmcache server`, started, killed, held and started again by the tests that use it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.engine.harness import free_port, wait_for
from tests.engine.tiers import Talk, Tier, flip

CHUNK = 64
SAVED = "memos_kv_lmcache_saved_tokens_total"
FAILED_LOADS = "memos_kv_lmcache_load_failures_total"
_START_SECONDS = 120


class LMCache:
    """A server with encrypted files behind its memory, so that damage is detected."""

    def __init__(self, folder: Path) -> None:
        self.port, self.http_port, self._metrics_port = free_port(), free_port(), free_port()
        self.files = folder / "objects"
        self._key = folder / "key"
        self._key.write_bytes(os.urandom(32))
        self._log = folder / "lmcache.log"
        self._pool = f"memos-test-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        """For the engine's environment."""
        return {
            "MEMOS__KV__TIER": "lmcache",
            "MEMOS__KV__LMCACHE_URL": f"tcp://127.0.0.1:{self.port}",
            "MEMOS__KV__LMCACHE_HTTP_URLS": f"[http://127.0.0.1:{self.http_port}]",
            "LMCACHE_TRACK_USAGE": "false",
        }

    @property
    def connector(self) -> dict[str, Any]:
        """LMCache's own connector to this server, for vLLM's `--kv-transfer-config`."""
        return {
            "kv_connector": "LMCacheMPConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "lmcache.mp.host": "tcp://127.0.0.1",
                "lmcache.mp.port": self.port,
                "lmcache.mp.mp_transfer_mode": "engine_driven",
            },
        }

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self, *, encrypted: bool = True, memory_gb: int = 1, **adapter: Any) -> None:
        """Start the server and wait until it answers.

        Args:
            encrypted: whether the storage is.
            adapter: configuration of the storage behind its memory; default: files.
        """
        adapter = adapter or {"type": "fs", "base_path": str(self.files)}
        if encrypted:
            adapter = {
                "serde": {"type": "aesgcm", "master_key_path": str(self._key)},
                **adapter,
            }
        command = [
            str(Path(sys.executable).with_name("lmcache")),
            *("server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--http-port", str(self.http_port), "--prometheus-port", str(self._metrics_port)),
            *("--chunk-size", str(CHUNK), "--l1-size-gb", str(memory_gb), "--l1-init-size-gb", "1"),
            *("--eviction-policy", "LRU", "--supported-transfer-mode", "engine_driven"),
            *("--shm-name", self._pool, "--l2-adapter", json.dumps(adapter)),
        ]
        environment = {**os.environ, "LMCACHE_TRACK_USAGE": "false"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{self.http_port}/healthcheck").is_success:
                    return
            time.sleep(0.2)
        raise AssertionError(f"LMCache did not start:\n{self._log.read_text()[-4000:]}")

    def signal(self, sign: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, sign)

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        self.kill()
        for pool in Path("/dev/shm").glob(f"*{self._pool}"):  # a killed server leaves it
            pool.unlink()

    def objects(self) -> list[Path]:
        return sorted(self.files.glob("*.data"))

    def in_memory(self, keys: list[dict[str, Any]]) -> int:
        """How many of these objects its memory holds; it deletes them from there."""
        reply = httpx.request(
            "DELETE",
            f"http://127.0.0.1:{self.http_port}/cache/objects",
            json={"keys": keys, "tier": "l1", "force": True},
        )
        return int(reply.raise_for_status().json()["deleted"])


class Setup(Tier):
    """A vLLM server and an LMCache server, each of which can be stopped."""

    def __init__(self, folder: Path) -> None:
        self.lmcache = LMCache(folder)
        super().__init__(folder, self.lmcache.settings)

    def saved(self) -> float:
        return self.metric(SAVED)

    def kept(self, person: str, talk: Talk, **extra: Any) -> Any:
        before = self.saved()
        reply = self.say(person, talk, **extra)

        def saved() -> bool:
            time.sleep(0.5)
            if self.saved() > before:
                return True
            self.say(person, talk, **extra)  # the engine may not be connected yet
            return False

        wait_for(saved, "a save")
        return reply

    def failures(self) -> float:
        return self.metric(FAILED_LOADS)

    def padding(self, reply: Any, person: str) -> int:
        return -reply.usage.prompt_tokens % CHUNK + 3  # a border of chunks is one of blocks

    def least(self, tokens: int) -> int:
        return tokens - tokens % CHUNK - CHUNK

    def damage(self, person: str, talk: Talk) -> Any:
        known = set(self.lmcache.objects())
        reply = self.kept(person, talk)
        made = wait_for(lambda: set(self.lmcache.objects()) - known, "objects")
        self.lmcache.kill()  # the objects in its memory are not damaged
        for path in made:
            flip(path)
        self.lmcache.start()
        time.sleep(5)
        return reply
