"""Records of the objects in LMCache, by cube and scope, and deletion by these records.

    <kv>/lmcache/cubes/<cube>/<salt>      one line per object: its key, as LMCache's HTTP frontend
    <kv>/lmcache/scopes/<scope>/<salt>    takes it

LMCache finds an object by its whole key and not by its contents, and most of its adapters cannot list
objects.  So the engine records each object before it hands it over, and deleting a cube deletes the
objects in its records: in the server's memory and in every adapter behind it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from memos_vllm.config.kv import KVConfig

_BATCH = 1000
_LOCKED_SECONDS = 10.0
"""Wait for objects that are being read or written; a lock that is older is of a client that died."""
_ADAPTER_SECONDS = 35.0
"""LMCache's adapters have 30 s for a deletion."""
_TAKEN = ".taken"


class RemoteKV:
    def __init__(self, config: KVConfig, folder: Path) -> None:
        """
        Args:
            config: addresses and time limits of LMCache.
            folder: of the records; it is made with the first one.
        """
        self._config = config
        self._cubes = folder / "cubes"
        self._scopes = folder / "scopes"

    # -- in the engine ----------------------------------------------------------------------------

    def note(
        self, cubes: Iterable[str], scope: str, salt: str, keys: Sequence[dict[str, Any]]
    ) -> None:
        """Record the objects that hold KV of these cubes and this scope.

        Args:
            cubes, scope: names as `SegmentStore` shortens them.
            keys: of LMCache's objects, in the form of its HTTP frontend.

        Raises:
            OSError: the record could not be written; the objects must not be handed over.
        """
        lines = "".join(f"{json.dumps(key)}\n" for key in keys)
        for path in self._records(cubes, scope, salt):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("a") as file:
                file.write(lines)

    def has(self, cubes: Iterable[str], scope: str, salt: str) -> bool:
        """Whether the records still exist: a deletion removes them."""
        return all(path.exists() for path in self._records(cubes, scope, salt))

    def _records(self, cubes: Iterable[str], scope: str, salt: str) -> list[Path]:
        return [*(self._cubes / cube / salt for cube in cubes), self._scopes / scope / salt]

    # -- where memory is deleted ------------------------------------------------------------------

    def forget_cube(self, cube: str) -> int:
        """Delete every object that holds KV of this cube; returns how many.

        Raises:
            OSError: LMCache does not answer, or refuses; the records stay, and a later call deletes.
        """
        return self._forget(self._cubes / cube)

    def forget_scope(self, scope: str) -> int:
        """Delete every object that holds KV of a person's or a tenant's scope; see `forget_cube`."""
        return self._forget(self._scopes / scope)

    def count_scope(self, scope: str) -> int:
        """Objects recorded for a scope."""
        keys = set[str]()
        for path in (self._scopes / scope).glob("*"):
            keys |= set(path.read_text().splitlines())
        return len(keys)

    def _forget(self, folder: Path) -> int:
        taken = list(_take(folder))
        keys: dict[str, dict[str, Any]] = {}
        for path in taken:
            for line in path.read_text().splitlines():
                keys[line] = json.loads(line)
        self.delete(list(keys.values()))
        for path in taken:
            path.unlink(missing_ok=True)
        return len(keys)

    def delete(self, keys: list[dict[str, Any]]) -> None:
        """Delete these objects, in memory and behind every adapter. Raises OSError."""
        if not keys:
            return
        timeout = max(self._config.lmcache_timeout_seconds, _ADAPTER_SECONDS)
        for url in self._config.lmcache_http_urls:
            try:
                with httpx.Client(base_url=url, timeout=timeout) as http:
                    found = http.get("/config/adapters").raise_for_status().json()["adapters"]
                    adapters = list(dict.fromkeys(adapter["type_name"] for adapter in found))
                    for start in range(0, len(keys), _BATCH):
                        _delete_batch(http, adapters, keys[start : start + _BATCH])
            except (httpx.HTTPError, KeyError, ValueError) as error:
                raise ConnectionError(f"LMCache at {url} does not delete: {error}") from error


def _delete_batch(http: httpx.Client, adapters: list[str], keys: list[dict[str, Any]]) -> None:
    """Delete from memory first: LMCache writes objects in its memory to the adapters."""
    deadline = time.monotonic() + _LOCKED_SECONDS
    while _call(http, keys, tier="l1", force=time.monotonic() > deadline)["skipped"]:
        time.sleep(0.1)
    for adapter in adapters:
        _call(http, keys, tier="l2", adapter=adapter)


def _call(http: httpx.Client, keys: list[dict[str, Any]], **how: Any) -> dict[str, Any]:
    reply = http.request("DELETE", "/cache/objects", json={"keys": keys, **how})
    answer: dict[str, Any] = reply.raise_for_status().json()
    if not answer["ok"]:
        raise ValueError(answer.get("error", "no reason given"))
    return answer


def _take(folder: Path) -> Iterator[Path]:
    """Rename the records of a folder, so that later notes go to new files."""
    for path in list(folder.glob("*")):
        if path.name.endswith(_TAKEN):
            yield path
            continue
        taken = path.with_name(path.name + _TAKEN)
        if taken.exists():  # of a deletion that failed: this one deletes both
            with taken.open("a") as file:
                file.write(path.read_text())
            path.unlink()
        else:
            yield path.rename(taken)
