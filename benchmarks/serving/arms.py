"""The arms: where each keeps the memory, and how a request of each looks."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bm25s
import psutil

from benchmarks.serving.people import Person, base_of
from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, NewCube, NewMeta, Placement
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server
from tests.engine.lmcache import LMCache

SYSTEM = "You are a helpful assistant. Answer in one sentence."
PASTED_ITEMS = 8
OURS_SETTINGS = {"MEMOS__PROMPT__BUDGET_TOKENS": "3000"}
"""Room for all of what the other arms paste."""
LMCACHE_GB = 2
"""As much as `kv.ram_bytes`."""
FLAGS = ("--max-model-len", "8192", "--max-num-seqs", "32")
KEPT_SETTINGS = {"MEMOS__PROMPT__KEPT_TOKENS": "2048"}
NONE, PASTED, LMCACHE, OURS, KEPT, QUIET = (
    "no memory",
    "pasted",
    "pasted, LMCache",
    "ours",
    "ours, kept",
    "ours, nothing to say",
)
BASE = "knowledge base"
_EMPTY = "tenant-without-memory"
Body = dict[str, Any]


class Arm:
    """A way to serve the same chats; several arms may share a server."""

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host = name, host

    def headers(self, person: Person) -> dict[str, str]:
        return {}

    def body(self, person: Person, messages: Sequence[dict[str, str]], session: str) -> Body:
        """Of one request.

        Args:
            messages: of the chat so far, the person's question last.
            session: id of the chat.
        """
        return {"model": MODEL, "messages": [{"role": "system", "content": SYSTEM}, *messages]}


class Host:
    """A server, stopped by signal while other arms are measured: what it does when idle costs no other."""

    def __init__(self, server: Server, beside: LMCache | None = None) -> None:
        self.server, self._beside = server, beside

    @property
    def url(self) -> str:
        return self.server.url

    @contextlib.contextmanager
    def running(self) -> Iterator[Host]:
        if self._beside is not None:
            self._beside.start(encrypted=False, memory_gb=LMCACHE_GB)
        try:
            with self.server.running():
                try:
                    yield self
                finally:
                    self.signal(signal.SIGCONT)
        finally:
            if self._beside is not None:
                self._beside.close()

    def signal(self, sign: signal.Signals) -> None:
        self.server.send_signal(sign)
        if self._beside is not None:
            self._beside.signal(sign)

    def cpu_seconds(self) -> tuple[float, float]:
        """Processor time that the API process has used, and its helpers: all below it but the engine."""
        api = psutil.Process(self.server.pid)
        below = [each for each in api.children(recursive=True) if not _is_engine(each)]
        return _cpu_seconds(api), sum(map(_cpu_seconds, below))


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _is_engine(process: psutil.Process) -> bool:
    return "VLLM::" in " ".join([process.name(), *process.cmdline()])


class Pasted(Arm):
    """The client searches the person's history with BM25 and writes all memory into the system message."""

    def __init__(self, name: str, host: Host, everyone: Sequence[Person]) -> None:
        super().__init__(name, host)
        self._indexes = {person.name: _Index(person) for person in everyone}

    def body(self, person: Person, messages: Sequence[dict[str, str]], session: str) -> Body:
        found = self._indexes[person.name].best(messages[-1]["content"])
        profile = "\n".join(f"- {line}" for line in person.profile)
        memory = "\n".join(f"- {line}" for line in found)
        system = (
            f"{SYSTEM}\n\n# Knowledge base\n{base_of(person.tenant)}\n\n# About the user\n{profile}\n\n"
            f"# Relevant memories\n{memory}"
        )
        return {"model": MODEL, "messages": [{"role": "system", "content": system}, *messages]}


class Ours(Arm):
    def __init__(self, name: str, host: Host, keys: dict[str, str]) -> None:
        super().__init__(name, host)
        self._keys = keys

    def headers(self, person: Person) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[person.tenant]}"}

    def body(self, person: Person, messages: Sequence[dict[str, str]], session: str) -> Body:
        body = super().body(person, messages, session)
        memory = {"order": "hottest"}
        return body | {"user": person.name, "memory": memory, "session_id": session}


class Quiet(Ours):
    """People of a tenant whose memory is empty, and stays so."""

    def headers(self, person: Person) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[_EMPTY]}"}

    def body(self, person: Person, messages: Sequence[dict[str, str]], session: str) -> Body:
        return super().body(person, messages, session) | {"memory": {"write": False}}


@contextlib.contextmanager
def started(
    folder: Path,
    everyone: Sequence[Person],
    blocks: int,
    turn: int,
    only: Sequence[str] | None = None,
) -> Iterator[list[Arm]]:
    """The arms with their memory stored.

    Args:
        blocks: KV blocks of each engine, of 32 tokens.
        turn: which start this is; each launches the servers in another order.
        only: names of arms; servers of others are not started. None: all.
    """
    flags = (*FLAGS, "--num-gpu-blocks-override", str(blocks))
    keys, kept_keys = (_stored(folder / home, everyone) for home in ("home", "kept"))
    bare = Host(Server(folder, home=None, flags=flags))
    beside = LMCache(folder)
    lmcache = Host(
        Server(
            folder,
            home=None,
            flags=(*flags, "--kv-transfer-config", json.dumps(beside.connector)),
            environment={"LMCACHE_TRACK_USAGE": "false"},
        ),
        beside,
    )
    with contextlib.ExitStack() as stack:
        memory = {"MEMOS__KV__RAM_PATH": stack.enter_context(shared_memory())}
        settings = OURS_SETTINGS | memory
        own = Host(Server(folder, home=folder / "home", flags=flags, environment=settings))
        keeping = {"MEMOS__KV__RAM_PATH": stack.enter_context(shared_memory())} | KEPT_SETTINGS
        kept = Host(
            Server(folder, home=folder / "kept", flags=flags, environment=OURS_SETTINGS | keeping)
        )
        every: list[Arm] = [
            Arm(NONE, bare),
            Pasted(PASTED, bare, everyone),
            Pasted(LMCACHE, lmcache, everyone),
            Ours(OURS, own, keys),
            Ours(KEPT, kept, kept_keys),
            Quiet(QUIET, own, keys),
        ]
        arms = [arm for arm in every if not only or arm.name in only]
        hosts = list(dict.fromkeys(arm.host for arm in arms))
        turn %= len(hosts)
        for host in hosts[turn:] + hosts[:turn]:
            stack.enter_context(host.running())
            if host in (own, kept):
                declare(host, keys if host is own else kept_keys)
            host.signal(signal.SIGSTOP)
        yield arms


def shared_memory() -> contextlib.AbstractContextManager[str]:
    """A folder for `kv.ram_path` that is gone behind the servers: a killed one leaves its files."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)


def declare(host: Host, keys: dict[str, str]) -> None:
    """Declare the system message as each tenant's own, and build the KV of its base, as an operator does."""
    for name, key in keys.items():
        if name.endswith("/admin"):
            with host.server.http(key) as http:
                url = f"/v1/memory/cubes/{quote(BASE)}/activate"
                http.post(url, json={"system": SYSTEM}).raise_for_status()


def _stored(home: Path, everyone: Sequence[Person]) -> dict[str, str]:
    """Store all memory, as an operator loads it before the server starts; returns a key per tenant."""
    embedder = {"model": str(demo_embedder_path())}
    config = load_config(overrides={"home": str(home), "embedder": embedder})
    system = MemorySystem(config).open()
    try:
        return fill(system, everyone)
    finally:
        system.close()


def fill(system: MemorySystem, everyone: Sequence[Person]) -> dict[str, str]:
    """Store it, and give each tenant a key for its people and one for its admin (`tenant/admin`)."""
    keys = {}
    for tenant in dict.fromkeys([*(person.tenant for person in everyone), _EMPTY]):
        _, keys[tenant] = system.keys.create(tenant, Role.WRITER)
        if tenant != _EMPTY:
            _, keys[f"{tenant}/admin"] = system.keys.create(tenant, Role.ADMIN)
            admin = Principal(TenantId(tenant), Role.ADMIN, "benchmark")
            meta = NewMeta(name=BASE, placement=Placement.STABLE, shared=True)
            payload = ExplicitPayload(content=base_of(tenant))
            system.create(admin, [NewCube(meta=meta, payload=payload)])
    for person in everyone:
        owner = Principal(TenantId(person.tenant), Role.WRITER, "benchmark", PersonId(person.name))
        system.create(owner, list(_cubes_of(person)))
    return keys


def _cubes_of(person: Person) -> Iterator[NewCube]:
    facts = [Item(type=ItemType.FACT, text=text) for text in person.profile]
    yield NewCube(
        meta=NewMeta(name="profile", placement=Placement.STABLE),
        payload=ExplicitPayload(content=facts),
    )
    for number, turns in enumerate(person.sessions):
        session = f"history-{number}"
        said = [
            Item(
                type=ItemType.EPISODE,
                text=turn.text,
                speaker=turn.speaker,
                time=turn.time,
                session=session,
            )
            for turn in turns
        ]
        yield NewCube(meta=NewMeta(name=session), payload=ExplicitPayload(content=said))


class _Index:
    def __init__(self, person: Person) -> None:
        self._texts = [f"{turn.speaker}: {turn.text}" for turn in person.turns]
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(self._texts, show_progress=False), show_progress=False)

    def best(self, question: str) -> list[str]:
        tokens = bm25s.tokenize([question], show_progress=False)
        places, _ = self._index.retrieve(tokens, k=PASTED_ITEMS, show_progress=False)
        return [self._texts[place] for place in places[0]]
