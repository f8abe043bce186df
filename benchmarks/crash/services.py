"""Services that a server uses over the network, killed and started again while it runs: PostgreSQL, LMCache."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engine.lmcache import LMCache
from tests.engine.postgres import Postgres

DATABASE, LMCACHE = "database", "LMCache"
SERVICES = (DATABASE, LMCACHE)


def missing() -> str | None:
    """Why these victims cannot be had on this machine; None: they can."""
    if importlib.util.find_spec("lmcache") is None:
        return "the package `lmcache` is not installed"
    if not Path(sys.executable).with_name("lmcache").exists() and not shutil.which("lmcache"):
        return "there is no command `lmcache`"
    return Postgres.missing()


class Services:
    """A PostgreSQL cluster and an LMCache server with files behind its memory."""

    def __init__(self, folder: Path) -> None:
        self.database, self.lmcache = Postgres(), LMCache(folder)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Services]:
        services = cls(folder)
        try:
            for name in SERVICES:
                services.start(name)
            yield services
        finally:
            services.lmcache.close()
            services.database.close()

    @property
    def environment(self) -> dict[str, str]:
        """Of the server that uses them."""
        return {
            **self.lmcache.settings,
            "MEMOS__DATABASE__URL": self.database.url,
            # Shorter than the longest absence, so that replies end before their turn is stored.
            "MEMOS__REMEMBER__DURABLE_WAIT_SECONDS": "1",
            "VLLM_SERVER_DEV_MODE": "1",  # for emptying the engine's prefix cache
        }

    def kill(self, name: str) -> None:
        """SIGKILL of a service and of all its processes."""
        (self.database if name == DATABASE else self.lmcache).kill()

    def start(self, name: str) -> None:
        """Start it on its old files and port, and wait until it answers."""
        (self.database if name == DATABASE else self.lmcache).start()
