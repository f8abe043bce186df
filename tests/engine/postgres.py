"""A PostgreSQL cluster that its user starts, kills with all its backends, and starts again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.engine.harness import free_port, wait_for

_ACCOUNT = "postgres"
"""Runs the server where this process is root's: PostgreSQL refuses root."""
_NAME = "memos"
_END_SECONDS = 20.0


class Postgres:
    """A cluster in a new folder below the temporary folder, on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="memos-postgres-"))
        self._log = self._folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        if (account := _account()) is not None:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", _ACCOUNT, "-A", "trust", "-E", "UTF8")

    @staticmethod
    def missing() -> str | None:
        """Why there can be no cluster; None: there can."""
        if _program("initdb") is None or _program("postgres") is None:
            return "PostgreSQL's `initdb` and `postgres` are not installed"
        if os.getuid() == 0 and _account() is None:
            return f"PostgreSQL refuses root, and there is no account `{_ACCOUNT}`"
        return None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{_ACCOUNT}@127.0.0.1:{self.port}/{_NAME}"

    def start(self) -> None:
        """Start the server, and wait until its recovery has ended; the first start makes the database."""
        program = _program("postgres")
        assert program is not None, self.missing()
        assert self._process is None, "it runs"
        options = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", str(self._data), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                **_as_account(),
            )
        wait_for(self._answers, f"PostgreSQL's start:\n{self._log.read_text()[-2000:]}", 60)

    def kill(self) -> None:
        """SIGKILL of the postmaster and of every backend, each of which leads a session of its own."""
        if self._process is None:
            return
        root = psutil.Process(self._process.pid)
        everything = [root, *root.children(recursive=True)]
        root.suspend()  # it forks no more
        everything += [each for each in root.children(recursive=True) if each not in everything]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait(_END_SECONDS)
        psutil.wait_procs(everything[1:], _END_SECONDS)
        self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- inside ---------------------------------------------------------------------------------------

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _answers(self) -> bool:
        try:
            admin = psycopg.connect(
                host="127.0.0.1",
                port=self.port,
                user=_ACCOUNT,
                dbname="postgres",
                autocommit=True,
                connect_timeout=2,
            )
        except psycopg.OperationalError:
            time.sleep(0.1)
            return False
        with admin:
            found = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_NAME,))
            if found.fetchone() is None:
                admin.execute(f'CREATE DATABASE "{_NAME}"')
        return True

    def _run(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None, self.missing()
        subprocess.run(
            [program, *arguments],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **_as_account(),
        )


def _program(name: str) -> str | None:
    """On the path, else of the newest version where Debian puts them."""
    if found := shutil.which(name):
        return found
    places = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda each: float(each.parts[-3])
    )
    return str(places[-1]) if places else None


def _account() -> pwd.struct_passwd | None:
    """The account that runs the server; None: the process's own does."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError:
        return None


def _as_account() -> dict[str, Any]:
    """Options of `subprocess` that give the root's child another account."""
    account = _account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
