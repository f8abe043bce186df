"""The measured systems, each in its own process behind HTTP on this machine."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from benchmarks.locomo_retrieval.dataset import Conversation, Turn
from benchmarks.memory_load.load import CONNECTIONS, Failed
from benchmarks.record import ROOT
from memos_vllm.demo.embedder import minilm_path
from memos_vllm.parametric.training.weights import compute_dtype

TOP_K = 10
_NO_LIMIT = httpx.Timeout(None)  # the load generator has its own


class System(abc.ABC):
    """One system: `store` before the measurement, `add` and `search` during it."""

    name: str

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.ready = ready
        self._process = psutil.Process(process.pid)
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{ready['port']}",
            timeout=_NO_LIMIT,
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=None),
            trust_env=False,
        )

    async def store(self, conversation: Conversation) -> None:
        """Store a conversation as the memory of the person with its name."""
        for turn in conversation.turns:
            await self.add(conversation.name, turn)

    @abc.abstractmethod
    async def add(self, person: str, turn: Turn) -> None:
        """Add one turn, searchable on return. Raises Failed."""

    @abc.abstractmethod
    async def search(self, person: str, question: str) -> list[str]:
        """Search turn ids, best first. Raises Failed."""

    def cpu_seconds(self) -> float:
        """Processor time so far of the process and all its children, ended ones included."""
        used = _cpu_seconds(self._process)
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                used += _cpu_seconds(child)
        return used

    async def _post(self, path: str, body: Any, person: str = "") -> dict[str, Any]:
        headers = {"X-Memos-User": person} if person else {}
        try:
            reply = await self.http.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Failed(type(error).__name__) from error
        if reply.is_error:
            raise Failed(f"status {reply.status_code}")
        answer: dict[str, Any] = reply.json()
        return answer


class Ours(System):
    name = "memos_vllm"

    async def store(self, conversation: Conversation) -> None:
        """Store a cube per session, like a chat or an import."""
        for session, turns in conversation.sessions.items():
            cube = _cube([_item(turn) for turn in turns], f"{conversation.name} {session}")
            await self._post("/v1/memory/cubes", cube, conversation.name)

    async def add(self, person: str, turn: Turn) -> None:
        await self._post("/v1/memory/cubes", _cube([_item(turn)]), person)

    async def search(self, person: str, question: str) -> list[str]:
        body = {"query": question, "top_k": TOP_K}
        answer = await self._post("/v1/memory/search", body, person)
        if answer["degraded"]:
            raise Failed(f"search was degraded: {answer['degraded']}")
        return _found(hit["item"]["source"] for hit in answer["results"])


class OursHalf(Ours):
    """With `embedder.dtype: bfloat16`."""

    name = "memos_vllm, bfloat16"


class Mem0(System):
    name = "mem0"

    async def add(self, person: str, turn: Turn) -> None:
        answer = await self._post("/memories", _said(person, turn))
        if not answer["results"]:
            raise Failed("no turn was stored")

    async def search(self, person: str, question: str) -> list[str]:
        body = {"query": question, "person": person, "top_k": TOP_K}
        answer = await self._post("/search", body)
        return _found(hit["metadata"]["turn"] for hit in answer["results"])


class Reference(System):
    """MemOS's reference implementation with a `general_text` memory per person."""

    name = "MemOS"

    async def add(self, person: str, turn: Turn) -> None:
        await self._post("/memories", _said(person, turn))

    async def search(self, person: str, question: str) -> list[str]:
        body = {"query": question, "person": person, "top_k": TOP_K}
        answer = await self._post("/search", body)
        return _found(hit["metadata"]["key"] for hit in answer["results"])


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    system: type[System]
    command: Sequence[str]


def ours() -> list[Kind]:
    """memos_vllm with defaults, and with a bfloat16 embedder where the processor has units for it."""
    command = (sys.executable, "-m", "benchmarks.memory_load.ours_worker")
    kinds = [Kind(Ours, command)]
    if compute_dtype("cpu") is torch.bfloat16:
        kinds.append(Kind(OursHalf, (*command, "--dtype", "bfloat16")))
    return kinds


def mem0(python: Path) -> Kind:
    """mem0, run by the Python of an environment that has it."""
    return Kind(Mem0, (str(python), str(Path(__file__).with_name("mem0_worker.py"))))


def reference(python: Path) -> Kind:
    """MemOS's reference implementation, run by the Python of an environment that has it."""
    return Kind(Reference, (str(python), str(Path(__file__).with_name("memos_worker.py"))))


def importable(python: Path, modules: Iterable[str]) -> set[str]:
    """Top-level modules that this Python finds, without importing them.

    Raises:
        OSError: it cannot be run.
        subprocess.CalledProcessError: it is no Python.
    """
    ask = (
        "import sys; from importlib.util import find_spec; print(*filter(find_spec, sys.argv[1:]))"
    )
    answer = subprocess.run(
        [str(python), "-c", ask, *modules], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return set(answer.stdout.split())


@contextlib.contextmanager
def running(kind: Kind, home: Path) -> Iterator[System]:
    """Start a system with an empty memory, and wait until it is ready.

    Raises:
        RuntimeError: its process ended before it was ready.
    """
    command = [*kind.command, "--home", str(home), "--embedder", str(minilm_path())]
    offline = {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | offline, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith("{"):
            raise RuntimeError(f"{kind.system.name} did not start: {ready.strip() or 'no answer'}")
        yield kind.system(process, json.loads(ready))
    finally:
        process.terminate()
        process.wait(timeout=30)


def _cpu_seconds(process: psutil.Process) -> float:
    """Processor time of the process and of its ended children."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _item(turn: Turn) -> dict[str, Any]:
    return {
        "type": "episode",
        "text": turn.text,
        "speaker": turn.speaker,
        "time": turn.time.isoformat() if turn.time else None,
        "session": turn.session,
        "source": turn.id,
    }


def _cube(items: list[dict[str, Any]], name: str | None = None) -> dict[str, Any]:
    return {"meta": {"name": name}, "payload": {"type": "explicit", "content": items}}


def _said(person: str, turn: Turn) -> dict[str, str]:
    """Body with the speaker's name in front, which improves retrieval by vectors."""
    return {"text": f"{turn.speaker}: {turn.text}", "person": person, "turn": turn.id}


def _found(turns: Iterator[str]) -> list[str]:
    found = list(dict.fromkeys(turns))
    if not found:
        raise Failed("no turn was found")
    return found
