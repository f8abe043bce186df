"""Conversations whose KV lies in LMCache, across a kill of LMCache or of the vault's database.

A person has a conversation behind a cube that stays and one behind a cube that is deleted while the service is
away; another person has one and is erased then.  Afterwards the first conversation is loaded, and LMCache has
no object of the others.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from openai import APIStatusError

from benchmarks.crash.services import LMCACHE, Services
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import LISTED, RULES, make, same
from tests.engine.lmcache import CHUNK

_LOADED = "memos_kv_lmcache_loaded_tokens_total"
_SAVED_SECONDS = 60.0
_BACK_SECONDS = 60.0
_RULES = 12


class Conversations:
    """Of one run. Each violation is (kind, detail)."""

    def __init__(
        self, server: Server, services: Services, keys: tuple[str, str, str], name: str
    ) -> None:
        """
        Args:
            keys: of a writer and of an admin of one tenant, and of the operator.
        """
        self._server, self._files = server, services.lmcache.files
        self._lmcache = services.lmcache
        self._writer, self._admin, self._operator = keys
        self._stays, self._leaves, self._other = (f"{name}-{each}" for each in ("a", "b", "c"))
        self._talk = _talk(name)
        self._erasure: str | None = None
        self.kept, self.doomed = (self._cube(kind) for kind in ("kept", "doomed"))
        self.gone = self._cube("gone", self._leaves)
        self._reply = self._said(self._stays, self.kept)
        for person, cube in ((self._stays, self.doomed), (self._leaves, self.gone)):
            self._said(person, cube)
        wait_for(
            lambda: all(self._is_stored(cube) for cube in (self.kept, self.doomed, self.gone)),
            "objects in LMCache's files",
            _SAVED_SECONDS,
        )
        self._keys = {cube: recorded(server, cube) for cube in (self.doomed, self.gone)}

    def while_away(self, victim: str) -> Iterator[tuple[str, str]]:
        """Go on, and delete a cube and a person, while a service is away."""
        if victim == LMCACHE:
            again = self._said(self._stays, self.kept)
            if not self._agrees(again):
                yield "wrong", "a reply without LMCache differs"
        yield from self._deleted(must=victim == LMCACHE)

    def after(self) -> Iterator[tuple[str, str]]:
        """Check what is loaded and what LMCache holds, once every service answers again."""
        if self._erasure is None:
            yield from self._deleted(must=True)
        yield from self._objects()
        yield from self._loads()

    # -- inside ---------------------------------------------------------------------------------------

    def _cube(self, kind: str, person: str | None = None) -> str:
        who = person or self._stays
        text = f"{kind} of {who}. " + " ".join(RULES[:_RULES])
        name = f"{kind}-{who}"
        return make(self._server, name, text, self._writer, as_person=who, person=who)

    def _said(self, person: str, cube: str | None) -> Any:
        memory = {"retrieve": False, **({"cubes": [cube]} if cube else {})}
        return chat(
            self._server, self._writer, person, "", messages=self._talk, memory=memory, **LISTED
        )

    def _agrees(self, again: Any) -> bool:
        """Whether a reply has the first reply's prompt and probabilities."""
        tokens = again.usage.prompt_tokens == self._reply.usage.prompt_tokens
        return tokens and same(again, self._reply)

    def _is_stored(self, cube: str) -> bool:
        keys = recorded(self._server, cube)
        held = names(self._files)
        return bool(keys) and all(_name(key) in held for key in keys)

    def _deleted(self, must: bool) -> Iterator[tuple[str, str]]:
        """Delete the cube and erase the person.

        Args:
            must: a refusal is a violation, even a clear one.
        """
        with self._server.http(self._writer, self._stays) as http:
            reply = http.delete(f"/v1/memory/cubes/{self.doomed}")
            if not (reply.is_success or reply.status_code == 404) and (must or not is_clear(reply)):
                yield "unclear", f"a deletion: {reply.status_code} {reply.text[:200]}"
        with self._server.http(self._admin) as http:
            reply = http.post("/v1/memory/erasures", json={"person": self._leaves})
            if reply.is_success:
                self._erasure = reply.json()["id"]
            elif must or not is_clear(reply):
                yield "unclear", f"an erasure: {reply.status_code} {reply.text[:200]}"

    def _objects(self) -> Iterator[tuple[str, str]]:
        """Objects of the deleted cube and person, on LMCache's disk and in its memory."""
        for what, cube in (("cube", self.doomed), ("person", self.gone)):
            keys = self._keys[cube]
            wanted = {_name(key) for key in keys}
            with contextlib.suppress(AssertionError):
                wait_for(lambda w=wanted: not w & names(self._files), "a deletion", _BACK_SECONDS)
            if left := wanted & names(self._files):
                yield "back", f"{len(left)} objects of a deleted {what} on LMCache's disk"
            if count := self._lmcache.in_memory(keys):
                yield "back", f"{count} objects of a deleted {what} in LMCache's memory"

    def _loads(self) -> Iterator[tuple[str, str]]:
        until = time.monotonic() + _BACK_SECONDS
        while True:
            self._empty()
            before = self._loaded()
            again = self._said(self._stays, self.kept)
            if not self._agrees(again):
                yield "wrong", "a reply with loaded KV differs"
            if self._loaded() - before >= CHUNK:
                break
            if time.monotonic() > until:
                yield "stuck", "LMCache's KV is not loaded again"
                break
            time.sleep(1)
        self._empty()
        before = self._loaded()
        other = self._said(self._other, None)
        if cached_tokens(other) or self._loaded() > before:
            yield "back", "another person's KV is loaded"
        try:
            self._said(self._stays, self.doomed)
        except APIStatusError:
            return
        yield "back", "a chat names a deleted cube"

    def _loaded(self) -> float:
        with self._server.http(self._operator) as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{_LOADED}{{")
        )

    def _empty(self) -> None:
        """Empty the engine's prefix cache."""

        def emptied() -> bool:
            with self._server.http(self._operator) as http:
                return http.post("/reset_prefix_cache").is_success

        wait_for(emptied, "an empty prefix cache")


def _talk(name: str) -> list[dict[str, str]]:
    """Questions, in which no claim is found that would change the prompt."""
    asked = [
        f"Does the office in town {i * 7 % 97} open at {i % 12} o'clock?" for i in range(_RULES)
    ]
    return [{"role": "user", "content": f"Is {name} here? {' '.join(asked)}"}]


def recorded(server: Server, cube: str) -> list[dict[str, Any]]:
    """LMCache's keys of a cube, as the engine noted them."""
    from memos_vllm.activation.tombstones import short

    assert server.home is not None
    return list(_lines(server.home / "kv" / "lmcache" / "cubes" / short(cube)))


def unrecorded(server: Server, services: Services) -> set[str]:
    """Objects on LMCache's disk that no record names, so that no deletion would find them."""
    assert server.home is not None
    folders = (server.home / "kv" / "lmcache").glob("*/*")
    known = {_name(key) for folder in folders for key in _lines(folder)}
    return names(services.lmcache.files) - known


def names(files: Path) -> set[str]:
    """Objects on LMCache's disk: hash and salt."""
    return {path.stem.split("@", 3)[3] for path in files.glob("*.data")}


def _name(key: dict[str, Any]) -> str:
    return f"{key['chunk_hash_hex']}@{key['cache_salt']}"


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            yield from (json.loads(line) for line in path.read_text().splitlines())


def is_clear(reply: httpx.Response) -> bool:
    """Whether an error says in its route's envelope that a part of memory is unavailable."""
    if reply.status_code != 503:
        return False
    try:
        error = reply.json()["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, dict) and bool(error.get("message")) and bool(error.get("type"))
