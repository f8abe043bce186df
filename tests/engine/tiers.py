"""A server that saves conversations: in segment files, or (`tests.engine.lmcache`) in LMCache."""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server, chat, wait_for
from tests.engine.kv import BLOCK, LISTED, RULES, explain, in_ram, segments, text_of

Talk = list[dict[str, str]]


def talk_of(name: str, rules: int = 20) -> Talk:
    return [{"role": "user", "content": f"{name}. " + " ".join(RULES[:rules]) + " Say one rule."}]


def going_on(talk: Talk, reply: Any) -> Talk:
    answer = {"role": "assistant", "content": text_of(reply)}
    return [*talk, answer, {"role": "user", "content": "And which one is next?"}]


class Tier(abc.ABC):
    """In float32 a prompt gives the same text however it is split between loads and computing."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        system = MemorySystem(load_config(overrides={"home": str(folder / "home")})).open()
        self.acme = system.keys.create("acme", Role.WRITER)[1]
        self.globex = system.keys.create("globex", Role.WRITER)[1]
        self.operator = system.keys.create("operator", Role.ADMIN)[1]
        system.close()
        self.server = Server(
            folder,
            home=folder / "home",
            environment={**environment, "VLLM_SERVER_DEV_MODE": "1"},
            flags=("--dtype", "float32"),
        )

    def say(self, person: str, talk: Talk, key: str | None = None, **extra: Any) -> Any:
        memory = {"retrieve": False, **extra.pop("memory", {})}
        return chat(
            self.server,
            key or self.acme,
            person,
            "",
            messages=talk,
            memory=memory,
            **(LISTED | extra),
        )

    def metric(self, name: str) -> float:
        with self.server.http(self.operator) as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def empty_engine(self) -> None:
        """Empty the engine's prefix cache: cached tokens come from a connector from now on."""

        def emptied() -> bool:
            with self.server.http(self.operator) as http:
                return http.post("/reset_prefix_cache").is_success

        wait_for(emptied, "an empty prefix cache")

    @abc.abstractmethod
    def kept(self, person: str, talk: Talk, **extra: Any) -> Any:
        """Send a conversation, and wait until its KV is saved."""

    @abc.abstractmethod
    def saved(self) -> float:
        """A count that grows with each save."""

    @abc.abstractmethod
    def failures(self) -> float:
        """Loads that failed."""

    @abc.abstractmethod
    def padding(self, reply: Any, person: str) -> int:
        """Tokens to add to the first message, so that the saved KV ends with a block."""

    @abc.abstractmethod
    def least(self, tokens: int) -> int:
        """Fewest tokens that are loaded of a prompt of so many, where all of its KV is saved."""

    @abc.abstractmethod
    def damage(self, person: str, talk: Talk) -> Any:
        """Save a conversation, and change a byte in each of its files; returns the reply."""


class Files(Tier):
    """Segment files, on disk and in shared memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"MEMOS__KV__PREFETCH": "false"})

    def saved(self) -> float:
        return len(segments(self.server))

    def kept(self, person: str, talk: Talk, **extra: Any) -> Any:
        before = set(segments(self.server))
        reply = self.say(person, talk, **extra)

        def settled() -> bool:
            now = set(segments(self.server))
            time.sleep(0.5)
            ram = {path.name for path in in_ram(self.server)}
            return bool(now - before) and now == set(segments(self.server)) and names(now) <= ram

        wait_for(settled, "a save")
        return reply

    def failures(self) -> float:
        return self.metric("memos_kv_load_failures_total")

    def padding(self, reply: Any, person: str) -> int:
        plan = explain(self.server, reply, person, self.acme)
        return -int(plan["kv"]["segments"][-1]["end"]) % BLOCK

    def least(self, tokens: int) -> int:
        return tokens - BLOCK

    def damage(self, person: str, talk: Talk) -> Any:
        before = set(segments(self.server))
        reply = self.kept(person, talk)
        made = names(set(segments(self.server)) - before)
        for path in [*segments(self.server), *in_ram(self.server)]:
            if path.name in made:
                flip(path)
        return reply


def names(paths: set[Path]) -> set[str]:
    return {path.name for path in paths}


def flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 0x55
    path.write_bytes(held)
