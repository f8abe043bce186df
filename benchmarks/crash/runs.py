"""One seeded run: load, a kill at a random moment, a restart of what the kill ends, and the checks."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.crash import checks
from benchmarks.crash.absence import answers_without
from benchmarks.crash.conversations import Conversations, unrecorded
from benchmarks.crash.ledger import Fate, Ledger
from benchmarks.crash.load import Errors, Load
from benchmarks.crash.services import DATABASE, SERVICES, Services
from benchmarks.crash.victims import REPLACED, ended_in_time, kill, processes
from benchmarks.record import ABSOLUTE_PATH
from memos_vllm.config.load import load_config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server

TENANT, PROBE = "crash", "probe"
LATEST_SECONDS = 5.0
"""When the process is killed at the latest, after the first acknowledged write."""
AWAY_SECONDS = 6.0
"""How long a service is away at most, without its own start."""
ANSWER_SECONDS = 120.0
_numbers = itertools.count()
FLAGS = ("--enable-lora", "--max-lora-rank", "8")


class Crashes:
    """Runs against one server, which is started again where a kill ends it."""

    def __init__(self, folder: Path, seed: int, services: Services | None = None) -> None:
        """
        Args:
            services: used by the server, and killed; None: it uses SQLite and files.
        """
        home = folder / "home"
        settings: dict[str, Any] = {
            "home": str(home),
            "embedder": {"model": str(demo_embedder_path())},
        }
        if services is not None:
            settings["database"] = {"url": services.database.url}
        system = MemorySystem(load_config(overrides=settings)).open()
        roles = (Role.WRITER, Role.ADMIN)
        writer, admin = (system.keys.create(TENANT, role)[1] for role in roles)
        _, self._operator = system.keys.create("operator", Role.ADMIN)
        system.close()
        self._seed, self._keys, self._services = seed, (writer, admin), services
        self._ledgers: list[Ledger] = []
        environment = services.environment if services is not None else {}
        # With float32, replies from loaded and from computed KV can be compared.
        flags = FLAGS if services is None else (*FLAGS, "--dtype", "float32")
        self.server = Server(folder, home=home, flags=flags, forked=False, environment=environment)
        self.system = MemorySystem(load_config(overrides=settings))
        """Not opened: it reads the database beside the server."""

    def close(self) -> None:
        self.system.close()

    def run(self, number: int, victim: str) -> dict[str, Any]:
        """Seconds until the server answers again, and the violations."""
        name = f"{self._seed}-{number}"
        dice, ledger = random.Random(name), Ledger(number)
        talks = None
        if victim in SERVICES:
            assert self._services is not None
            talks = Conversations(
                self.server, self._services, (*self._keys, self._operator), f"kv-{name}"
            )
        load = Load(self.server, self._keys, ledger, name)
        self._ledgers.append(ledger)
        violations: list[checks.Violation] = []
        with load.running():
            begun = ended_in_time(
                lambda: bool(ledger.counts()[Fate.KEPT]) and self._runs(victim), ANSWER_SECONDS
            )
            assert begun, f"no {victim} runs, or no write is acknowledged: {ledger.refused}"
            after = dice.uniform(0, LATEST_SECONDS)
            time.sleep(after)
            if talks is not None:
                seconds = self._without(victim, load, talks, dice, violations)
            else:
                load.allowed = Errors.ANY
                killed = time.monotonic()
                violations += [
                    checks.Violation("orphan", left) for left in kill(self.server, victim)
                ]
                seconds = time.monotonic() - killed
                if victim in REPLACED:
                    seconds = self._answering(killed)
        if victim not in REPLACED and victim not in SERVICES:
            violations += checks.index(self.system)
            started = time.monotonic()
            self.server.start()
            seconds += self._answering(started)
        violations += checks.settled(self.system)
        violations += self._served(ledger)
        violations += checks.errors(ledger)
        if talks is not None:
            violations += _violations(talks.after())
        if self._services is not None:
            violations += self._unrecorded()
        return {
            "run": number,
            "victim": victim,
            "killed_after_seconds": round(after, 3),
            "answers_again_seconds": round(seconds, 2),
            "facts": ledger.counts(),
            "erasures": sum(erasure.id is not None for erasure in ledger.erasures),
            "violations": dict(Counter(each.kind for each in violations)),
            "details": shown(violations),
        }

    def everything(self) -> list[checks.Violation]:
        """Check the facts of all runs once more, and stop the server for the index."""
        found = [each for ledger in self._ledgers for each in self._served(ledger)]
        self.server.kill()
        return [*found, *checks.index(self.system)]

    def warm(self) -> None:
        """Start every process that the server starts at its first use."""
        self._answering(time.monotonic())

    def _runs(self, victim: str) -> bool:
        return victim in SERVICES or victim in processes(self.server)

    def _without(
        self,
        victim: str,
        load: Load,
        talks: Conversations,
        dice: random.Random,
        violations: list[checks.Violation],
    ) -> float:
        """Kill a service, use the server without it, and start it again; returns the seconds from the
        end of its start until the server answers whole."""
        assert self._services is not None
        # A server needs no LMCache to answer whole.
        load.allowed = Errors.CLEAR if victim == DATABASE else Errors.NONE
        until = time.monotonic() + dice.uniform(1, AWAY_SECONDS)
        self._services.kill(victim)
        if victim == DATABASE:
            violations += _violations(answers_without(self.server, self._keys[0], PROBE))
        violations += _violations(talks.while_away(victim))
        time.sleep(max(0.0, until - time.monotonic()))
        self._services.start(victim)
        return self._answering(time.monotonic())

    def _served(self, ledger: Ledger) -> list[checks.Violation]:
        return list(checks.served(self.server, self._keys, ledger, self.system, TENANT))

    def _unrecorded(self) -> Iterator[checks.Violation]:
        services = self._services
        assert services is not None
        ended_in_time(lambda: not unrecorded(self.server, services), checks.SETTLE_SECONDS)
        if left := unrecorded(self.server, services):
            yield checks.Violation("back", f"{len(left)} objects in LMCache that no record names")

    def _answering(self, since: float) -> float:
        """Seconds until a chat, a search and a document are answered whole."""
        assert ended_in_time(self._answers, ANSWER_SECONDS), "the server does not answer again"
        return time.monotonic() - since

    def _answers(self) -> bool:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Whom did I meet?"}],
            "max_tokens": 1,
            "store": False,
        }
        file = (f"{next(_numbers)}.md", b"The park is green.", "text/markdown")
        with self.server.http(self._keys[0], PROBE) as http:
            try:
                chat = http.post("/v1/chat/completions", json=body)
                search = http.post("/v1/memory/search", json={"query": "What is green?"})
                document = http.post("/v1/memory/documents", files={"file": file})
            except httpx.HTTPError:
                return False
        return (
            chat.status_code == 200
            and "x-memos-degraded" not in chat.headers
            and search.status_code == 200
            and search.json()["degraded"] is None
            and document.status_code == 201
        )


def shown(violations: Sequence[checks.Violation]) -> list[str]:
    """The first violations, without what a record takes for an absolute path (routes)."""
    details = [f"{each.kind}: {each.detail}" for each in violations[:20]]
    return [ABSOLUTE_PATH.sub(lambda found: f"…{found[0][-1]}", each) for each in details]


def order(runs: int, seed: int, victims: Sequence[str]) -> list[str]:
    """Victims of the runs: each as often as the others, in random order."""
    chosen = [victims[number % len(victims)] for number in range(runs)]
    random.Random(seed).shuffle(chosen)
    return chosen


def _violations(found: Iterator[tuple[str, str]]) -> Iterator[checks.Violation]:
    return (checks.Violation(kind, detail) for kind, detail in found)
