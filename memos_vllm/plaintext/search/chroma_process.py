"""The embedded Chroma store in a process of its own, which sees ids and vectors, never text.

Chroma's HNSW index writes memory to its files that it has allocated and not filled yet.  In a server's
process that memory holds what was freed there before: sentences, names, keys.  In this process it can only
hold ids and vectors of the store itself, and glibc fills it before it is used (`MALLOC_PERTURB_`).

Protocol over socket pairs, as for the encoder (`embed.process`): a request is one JSON message, followed
by the vectors' bytes (float32, row by row) where it has a `shape`; an answer likewise.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

log = logging.getLogger(__name__)

_CHILD = "memos_vllm.plaintext.search.chroma_child"
_CONNECTIONS = 4
_END_SECONDS = 10.0
_VACUUM_SECONDS = 60.0
_PASSED_ON = ("PATH", "PYTHONPATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
"""Environment of the process: no keys and no URLs of the server's."""
_PERTURB = "165"


class ChromaFailed(OSError):
    """Chroma refused a call."""


class NoCollection(LookupError):
    """There is no such collection."""


class Collection:
    """One collection, by the names of Chroma's own methods."""

    def __init__(self, process: ChromaProcess, name: str) -> None:
        self._process, self.name = process, name

    def upsert(self, ids: Sequence[str], embeddings: Any, metadatas: Any) -> None:
        self._call("upsert", embeddings, ids=list(ids), metadatas=list(metadatas))

    def delete(self, ids: Sequence[str] | None = None, where: Any = None) -> None:
        self._call("delete", **_given(ids=ids, where=where))

    def query(self, query_embeddings: Sequence[Any], **asked: Any) -> dict[str, Any]:
        return self._call("query", np.asarray(query_embeddings, dtype=np.float32), **asked)

    def get(
        self, ids: Sequence[str] | None = None, where: Any = None, include: Any = ("metadatas",)
    ) -> dict[str, Any]:
        return self._call("get", **_given(ids=ids, where=where, include=list(include)))

    def _call(self, name: str, vectors: Any = None, **asked: Any) -> dict[str, Any]:
        return self._process.call({"call": name, "collection": self.name, "with": asked}, vectors)


class ChromaProcess:
    """The store, in the part of Chroma's client that `VectorIndex` uses. Thread-safe.

    The process starts at the first use, and again if it ended.  Errors are OSErrors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._free = threading.Condition()
        self._calls, self._compacting = 0, False  # guarded by _free
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return self._process.pid if self._process is not None else None

    def get_or_create_collection(self, name: str, **_asked: Any) -> Collection:
        self.call({"call": "make", "collection": name})
        return Collection(self, name)

    def delete_collection(self, name: str) -> None:
        self.call({"call": "drop", "collection": name})

    def list_collections(self) -> list[Collection]:
        return [Collection(self, name) for name in self.call({"call": "list"})["names"]]

    def heartbeat(self) -> None:
        self.call({"call": "list"})

    def compact(self, names: Sequence[str]) -> None:
        """Write collections anew without what was deleted from them, and empty Chroma's free space.

        The process is restarted: searches that need it wait, or find it unavailable.  A kill at any
        point loses no row.
        """
        with self._alone():
            for name in names:
                with contextlib.suppress(NoCollection):
                    self._exchanged({"call": "rebuild", "collection": name}, None)
            with self._lock:
                self._end()
                vacuum(self._folder)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._end()

    def call(self, request: Mapping[str, Any], vectors: Any = None) -> dict[str, Any]:
        """Send a request and receive its answer.

        Raises:
            NoCollection
            OSError: Chroma refuses it, or the process has ended.
        """
        with self._free:
            self._free.wait_for(lambda: not self._compacting)
            self._calls += 1
        try:
            return self._exchanged(request, vectors)
        finally:
            with self._free:
                self._calls -= 1
                self._free.notify_all()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No call runs inside the block."""
        with self._free:
            self._free.wait_for(lambda: not self._compacting)
            self._compacting = True
            self._free.wait_for(lambda: not self._calls)
        try:
            yield
        finally:
            with self._free:
                self._compacting = False
                self._free.notify_all()

    def _exchanged(self, request: Mapping[str, Any], vectors: Any) -> dict[str, Any]:
        connection, process = self._taken()
        try:
            send(connection, request, vectors)
            answer = receive(connection)
        except (EOFError, OSError) as error:
            connection.close()
            self._lost(process)
            raise ChromaFailed(f"the process of the vector store has ended: {error}") from error
        with self._lock:
            if process is self._process:
                self._connections.put(connection)
            else:
                connection.close()
        if "missing" in answer:
            raise NoCollection(answer["missing"])
        if "error" in answer:
            raise ChromaFailed(answer["error"])
        return answer

    def _taken(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        while True:
            with self._lock:
                if self._closed:
                    raise ChromaFailed("the vector store is closed")
                if self._process is None or self._process.poll() is not None:
                    self._end()
                    self._start()
                process, connections = self._process, self._connections
            assert process is not None
            with contextlib.suppress(queue.Empty):
                return connections.get(timeout=1.0), process

    def _start(self) -> None:
        pairs = [socket.socketpair() for _ in range(_CONNECTIONS)]
        theirs = [child.fileno() for _, child in pairs]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        command = [sys.executable, "-m", _CHILD, str(self._folder), str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
            env=environment | {"MALLOC_PERTURB_": _PERTURB, "ANONYMIZED_TELEMETRY": "False"},
        )
        self._connections = queue.LifoQueue()
        for ours, child in pairs:
            child.close()
            self._connections.put(Connection(ours.detach()))

    def _lost(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if process is self._process:
                log.warning("the process of the vector store has ended; it is restarted")
                self._end()

    def _end(self) -> None:
        """Close the connections, which ends the process; the caller holds the lock."""
        process, self._process = self._process, None
        with contextlib.suppress(queue.Empty):
            while True:
                self._connections.get_nowait().close()
        if process is None:
            return
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def vacuum(folder: Path) -> None:
    """Rewrite Chroma's database without free space, and remove indexes that no collection has.

    No process may have the store open.  Raises OSError.
    """
    file = folder / "chroma.sqlite3"
    if not file.exists():
        return
    try:
        with contextlib.closing(
            sqlite3.connect(file, timeout=_VACUUM_SECONDS, isolation_level=None)
        ) as database:
            known = {row[0] for row in database.execute("SELECT id FROM segments")}
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise ChromaFailed(f"the vector store cannot be compacted: {error}") from error
    for path in folder.iterdir():
        if path.is_dir() and _is_uuid(path.name) and path.name not in known:
            shutil.rmtree(path)


def _is_uuid(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(UUID(name)) == name
    return False


def _given(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def send(connection: Connection, message: Mapping[str, Any], vectors: Any = None) -> None:
    if vectors is None:
        connection.send_bytes(json.dumps(message).encode())
        return
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    connection.send_bytes(json.dumps({**message, "shape": array.shape}).encode())
    connection.send_bytes(array.tobytes())


def receive(connection: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    if "shape" in message:
        data = np.frombuffer(connection.recv_bytes(), dtype=np.float32)
        message["embeddings"] = data.reshape(message.pop("shape"))
    return message
