"""Clients that chat, store, change, delete, erase, search and upload, until their server is killed."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Any

import httpx

from benchmarks.crash.conversations import is_clear
from benchmarks.crash.ledger import Erasure, Fact, Fate, Ledger
from tests.adapters import config_of, content_of, tensors_of
from tests.engine.harness import MODEL, Server

CLIENTS = 3
BATCH = 3
LAYER = {"model.layers.0.self_attn.q_proj": (576, 576)}
"""What the adapters change, of the demo's model."""
WEIGHTS = {
    "chat": 20,
    "stream": 20,
    "create": 12,
    "batch": 6,
    "append": 10,
    "delete": 10,
    "forget": 8,
    "search": 8,
    "document": 6,
    "erase": 4,
    "adapter": 2,
}


class Errors(Enum):
    """Which errors of requests no violation are."""

    NONE = "none"
    CLEAR = "clear"
    """A part of memory is away: a 503 in its route's envelope, or a reply that says that it is not written."""
    ANY = "any"


class Refused(Exception):
    """An answer that acknowledges nothing."""

    def __init__(self, message: str, is_clear: bool = False) -> None:
        super().__init__(message)
        self.is_clear = is_clear


class Load:
    """The clients of one run. Each has a person of its own, and further ones whom it erases."""

    def __init__(self, server: Server, keys: tuple[str, str], ledger: Ledger, seed: str) -> None:
        """
        Args:
            keys: of a writer and of an admin of one tenant.
        """
        self._server, self._keys, self._ledger, self._seed = server, keys, ledger, seed
        self._stop = threading.Event()
        self.allowed = Errors.NONE
        """Changed right before the kill."""
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(180)
            assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self._seed}-{number}")
        client = _Client(self._server, self._keys, self._ledger, f"{self._seed}-p{number}", dice)
        with client.http, client.admin:
            first = "document" if number == 0 else "chat"  # the parser runs from the start
            for action in [first, *dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=10_000)]:
                if self._stop.is_set():
                    return
                try:
                    getattr(client, action)()
                except (Refused, httpx.HTTPError) as error:
                    self._note(action, error)
                    self._stop.wait(0.3)

    def _note(self, action: str, error: Refused | httpx.HTTPError) -> None:
        """Note an error that is a violation at this moment."""
        shown = f"{action}: {error!r}"[:300]
        is_clear = isinstance(error, Refused) and error.is_clear
        if self.allowed is Errors.NONE:
            self._ledger.refused.append(shown)
        elif self.allowed is Errors.CLEAR and not is_clear:
            self._ledger.unclear.append(shown)


class _Client:
    def __init__(
        self,
        server: Server,
        keys: tuple[str, str],
        ledger: Ledger,
        person: str,
        dice: random.Random,
    ) -> None:
        self.http, self.admin = server.http(keys[0], person), server.http(keys[1])
        self._writer_key, self._server = keys[0], server
        self._ledger, self._person, self._dice = ledger, person, dice
        self._erased = 0

    # -- writes ---------------------------------------------------------------------------------------

    def chat(self, person: str | None = None) -> None:
        fact = self._ledger.fact(person or self._person, turn=True)
        reply = _answered(self.http.post("/v1/chat/completions", json=self._turn(fact)))
        _acknowledge(fact, reply["memory"])

    def stream(self) -> None:
        fact = self._ledger.fact(self._person, turn=True)
        body = self._turn(fact) | {"stream": True}
        memory, ended = None, False
        with self.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                reply.read()
                _answered(reply)
            for line in reply.iter_lines():
                ended = ended or line == "data: [DONE]"
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise Refused(str(event["error"]))
                    memory = event.get("memory") or memory
        if not ended or memory is None:
            raise Refused("the stream was cut")
        _acknowledge(fact, memory)

    def create(self, person: str | None = None) -> None:
        who = person or self._person
        fact = self._ledger.fact(who)
        headers = {"X-Memos-User": who}
        reply = self.http.post("/v1/memory/cubes", json=_cube(fact), headers=headers)
        fact.cube = _answered(reply)["meta"]["id"]
        fact.fate = Fate.KEPT

    def batch(self) -> None:
        number = self._ledger.next_batch()
        facts = [self._ledger.fact(self._person, batch=number) for _ in range(BATCH)]
        body = {"cubes": [_cube(fact) for fact in facts]}
        made = _answered(self.http.post("/v1/memory/cubes/batch", json=body))["cubes"]
        for fact, cube in zip(facts, made, strict=True):
            fact.cube, fact.fate = cube["meta"]["id"], Fate.KEPT

    def append(self) -> None:
        into = self._chosen()
        if into is None:
            return self.create()
        fact = self._ledger.fact(self._person)
        body = {"append": [{"type": "fact", "text": fact.sentence}]}
        _answered(self.http.patch(f"/v1/memory/cubes/{into.cube}", json=body))
        fact.cube, fact.fate = into.cube, Fate.KEPT
        return None

    def document(self) -> None:
        fact = self._ledger.fact(self._person)
        file = (f"{fact.word}.md", f"# A note\n\n{fact.sentence}\n".encode(), "text/markdown")
        fact.cube = _answered(self.http.post("/v1/memory/documents", files={"file": file}))["meta"][
            "id"
        ]
        fact.fate = Fate.KEPT

    def adapter(self) -> None:
        tensors = tensors_of(LAYER, seed=self._dice.randrange(99))
        content = content_of(tensors, config_of(targets=("q_proj",)))
        payload = {"type": "parametric", "format": "lora", "content": content}
        made = _answered(self.http.post("/v1/memory/cubes", json={"payload": payload}))
        self._ledger.adapters[made["meta"]["id"]] = self._person

    # -- deletions ------------------------------------------------------------------------------------

    def delete(self) -> None:
        """Delete a cube with every fact in it."""
        chosen = self._chosen()
        if chosen is None:
            return
        gone = [
            fact for fact in self._ledger.of(self._person, Fate.KEPT) if fact.cube == chosen.cube
        ]
        _fated(gone, Fate.UNKNOWN)
        _answered(self.http.delete(f"/v1/memory/cubes/{chosen.cube}"))
        _fated(gone, Fate.DELETED)

    def forget(self) -> None:
        """Forget a fact of a turn that has become memory, by the ids of all items that state it."""
        said = [f for f in self._ledger.of(self._person, Fate.KEPT) if f.turn]
        if not said:
            return
        fact = self._dice.choice(said)
        items = [
            item["id"]
            for cube in listed(self.http)
            for item in opened(self.http, cube)["payload"]["content"]
            if fact.word in item["text"]
        ]
        if not items:  # it is not memory yet
            return
        fact.fate, fact.forgotten = Fate.UNKNOWN, frozenset(items)
        body = {"items": items, "action": "forget"}
        _answered(self.http.post("/v1/memory/feedback", json=body))
        fact.fate = Fate.DELETED

    def erase(self) -> None:
        """Erase a person who has a cube and a turn, and who does not come back."""
        self._erased += 1
        person = f"{self._person}-gone-{self._erased}"
        self.create(person)
        self.chat(person)
        erasure = Erasure(person)
        self._ledger.erasures.append(erasure)
        gone = [fact for fact in self._ledger.facts if fact.person == person]
        _fated(gone, Fate.UNKNOWN)
        reply = self.admin.post("/v1/memory/erasures", json={"person": person})
        erasure.id = _answered(reply)["id"]
        _fated(gone, Fate.DELETED)

    # -- reads ----------------------------------------------------------------------------------------

    def search(self) -> None:
        _answered(self.http.post("/v1/memory/search", json={"query": "Whom did I meet?"}))

    # -- inside ---------------------------------------------------------------------------------------

    def _chosen(self) -> Fact | None:
        """A fact in a cube that the Memory API made."""
        own = [f for f in self._ledger.of(self._person, Fate.KEPT) if f.cube and not f.turn]
        return self._dice.choice(own) if own else None

    def _turn(self, fact: Fact) -> dict[str, Any]:
        return {
            "model": MODEL,
            "user": fact.person,
            "messages": [{"role": "user", "content": fact.sentence}],
            "max_tokens": self._dice.randint(1, 12),
            "temperature": 0,
            "session_id": f"s{self._dice.randrange(3)}",
        }


def listed(http: httpx.Client) -> list[str]:
    """Ids of all cubes with text that the client's person has."""
    found: list[str] = []
    params: dict[str, Any] = {"limit": 200}
    while True:
        page = _answered(http.get("/v1/memory/cubes", params=params))
        found += [cube["id"] for cube in page["cubes"] if cube["kind"] == "explicit"]
        if not page.get("next_cursor"):
            return found
        params["cursor"] = page["next_cursor"]


def opened(http: httpx.Client, cube: str) -> dict[str, Any]:
    return _answered(http.get(f"/v1/memory/cubes/{cube}"))


def _cube(fact: Fact) -> dict[str, Any]:
    return {
        "payload": {
            "type": "explicit",
            "format": "text",
            "content": [{"type": "fact", "text": fact.sentence}],
        }
    }


def _answered(reply: httpx.Response) -> dict[str, Any]:
    """The body. Raises Refused: the status acknowledges nothing."""
    if not reply.is_success:
        raise Refused(f"{reply.status_code} {reply.text[:200]}", is_clear(reply))
    found: dict[str, Any] = reply.json() if reply.content else {}
    return found


def _acknowledge(fact: Fact, memory: dict[str, Any]) -> None:
    if not memory["written"]:
        raise Refused(f"not written: {memory['not_written']}", bool(memory["not_written"]))
    fact.fate = Fate.KEPT


def _fated(facts: list[Fact], fate: Fate) -> None:
    for fact in facts:
        fact.fate = fate
