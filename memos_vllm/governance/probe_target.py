"""What the attacks of `probing` send to a running server, by whose keys and people, and how a reply is timed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import httpx

from memos_vllm.errors import Unavailable
from memos_vllm.governance.probing import Attack, NotStored, Sample

_OFF = {"enabled": False}
_FROM_STORE = ("exact", "near")
_TIMEOUT_SECONDS = 120.0


class Target:
    """The server that is probed, asked by API keys for people with names of their own."""

    def __init__(self, url: str, model: str | None = None) -> None:
        """
        Args:
            url: without `/v1`.
            model: name of the served model; default: the first that the server lists.
        """
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._model = model
        self._mark, self._people = secrets.token_hex(4), 0
        self._cubes: list[tuple[str | None, str, str]] = []

    def close(self) -> None:
        """Delete the cubes that the attacks made."""
        try:
            for key, person, cube in self._cubes:
                self.call(key, person, "DELETE", f"/v1/memory/cubes/{cube}")
        finally:
            self._http.close()

    def new_person(self) -> str:
        self._people += 1
        return f"probe-{self._mark}-{self._people}"

    def call(self, key: str | None, person: str, method: str, path: str, body: Any = None) -> Any:
        """Body of the reply. Raises Unavailable."""
        try:
            reply = self._http.request(method, path, json=body, headers=self._headers(key, person))
        except httpx.HTTPError as error:
            raise Unavailable(f"the server does not answer: {error!r}") from error
        if not reply.is_success:
            raise _refused(reply.status_code, reply.text)
        return reply.json() if reply.content else None

    def chat(
        self, key: str | None, person: str, text: str, memory: Mapping[str, Any], **extra: Any
    ) -> Sample:
        """Time a chat to its first token. Raises Unavailable."""
        body = {
            "model": self._named(key, person),
            "user": person,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "memory": dict(memory),
            **extra,
        }
        first, cached, planned = 0.0, None, 0
        found: dict[str, Any] = {}
        try:
            begun = time.perf_counter()
            with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers=self._headers(key, person)
            ) as reply:
                if reply.status_code != 200:
                    raise _refused(reply.status_code, reply.read().decode(errors="replace"))
                for line in reply.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    first = first or time.perf_counter() - begun
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise Unavailable(f"the server failed: {event['error']}")
                    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
                    cached = details.get("cached_tokens", cached)
                    found = event.get("memory") or found
                    planned = max(planned, found.get("cached_tokens") or 0)
        except httpx.HTTPError as error:
            raise Unavailable(f"the server does not answer: {error!r}") from error
        loaded = sum(cube.get("kv") in _FROM_STORE for cube in found.get("cubes") or ())
        return Sample(
            first, max(cached or 0, planned) if cached is not None or planned else None, loaded
        )

    def cube(self, key: str | None, person: str, text: str) -> str:
        """Store a cube of the person until `close`; its id. Raises Unavailable."""
        return self._stored(key, person, {"type": "explicit", "format": "text", "content": text})

    def adapter(self, key: str | None, person: str, content: Mapping[str, Any]) -> str:
        """Store a parametric cube until `close`; its id. Raises Unavailable."""
        return self._stored(
            key, person, {"type": "parametric", "format": "lora", "content": dict(content)}
        )

    def _stored(self, key: str | None, person: str, payload: dict[str, Any]) -> str:
        path, body = "/v1/memory/cubes", {"payload": payload}
        made: str = self.call(key, person, "POST", path, body)["meta"]["id"]
        self._cubes.append((key, person, made))
        return made

    def wait_for_kv(self, key: str | None, person: str, cube: str, seconds: float = 60.0) -> None:
        """Wait until a cube's KV is stored. Raises NotStored: it is not in time."""
        until = time.monotonic() + seconds
        path = f"/v1/memory/cubes/{cube}/activation"
        while not self.call(key, person, "GET", path)["chains"]:
            if time.monotonic() > until:
                raise NotStored(f"the server stored no KV of a cube within {seconds:g} s")
            time.sleep(0.05)

    def _named(self, key: str | None, person: str) -> str:
        if self._model is None:
            self._model = str(self.call(key, person, "GET", "/v1/models")["data"][0]["id"])
        return self._model

    @staticmethod
    def _headers(key: str | None, person: str) -> dict[str, str]:
        named = {"X-Memos-User": person}
        return named | ({"Authorization": f"Bearer {key}"} if key else {})


def _refused(status: int, text: str) -> Unavailable:
    return Unavailable(f"the server refuses a probe: {status} {text[:300]}")


class Prefix:
    """Prompts without memory: the engine's prefix cache."""

    def __init__(self, target: Target, victim: str | None, attacker: str | None) -> None:
        """
        Args:
            victim: key.
            attacker: key; the victim's own: another person of its tenant attacks.
        """
        self._target, self._keys = target, (victim, attacker)
        self._person = target.new_person()

    def attack(self, name: str) -> Attack:
        return Attack(name, self._victim, self._attacker)

    def _victim(self, text: str) -> Sample:
        return self._target.chat(self._keys[0], self._person, text, _OFF)

    def _attacker(self, text: str) -> Sample:
        # A new person each time: no guess hits blocks of the one before.
        stranger = self._target.new_person()
        return self._target.chat(self._keys[1], stranger, text, _OFF)


class Stored:
    """Private cubes with the same text: KV that is stored by cube."""

    def __init__(
        self, target: Target, victim: str | None, attacker: str | None, kv: str = "exact"
    ) -> None:
        self._target, self._keys, self._kv = target, (victim, attacker), kv
        self._person = target.new_person()
        self._own: dict[str, str] = {}

    def attack(self, name: str) -> Attack:
        return Attack(name, self._victim, self._attacker, self._settle)

    def _victim(self, text: str) -> Sample:
        key = self._keys[0]
        if text not in self._own:
            self._own[text] = self._target.cube(key, self._person, text)
        return self._asked(key, self._person, self._own[text], "exact")

    def _attacker(self, text: str) -> Sample:
        stranger = self._target.new_person()
        cube = self._target.cube(self._keys[1], stranger, text)
        return self._asked(self._keys[1], stranger, cube, self._kv)

    def _settle(self, text: str) -> None:
        self._target.wait_for_kv(self._keys[0], self._person, self._own[text])

    def _asked(self, key: str | None, person: str, cube: str, kv: str) -> Sample:
        # Without `store: false`, which also keeps the KV out of the store.
        memory = {"cubes": [cube], "retrieve": False, "write": False, "kv": kv}
        return self._target.chat(key, person, "Say one of the words.", memory)
