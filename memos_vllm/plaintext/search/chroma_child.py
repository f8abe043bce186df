"""The process of the embedded Chroma store (`chroma_process`)."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from memos_vllm import lifeline
from memos_vllm.plaintext.search.chroma_process import ChromaFailed, receive, send
from memos_vllm.plaintext.search.vector_store import (
    COLLECTION,
    ChromaError,
    NotFoundError,
    embedded_client,
)

_ROWS = 1000
_NEW = ".new"
"""End of the name of a collection that is being copied."""


class _Store:
    """Chroma, as the process serves it."""

    def __init__(self, folder: Path) -> None:
        self._options = COLLECTION
        self._client: Any = embedded_client(folder)
        self._collections: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._recover()

    def answer(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """(message, vectors) of a request."""
        call, name = request["call"], request.get("collection", "")
        if call == "list":
            return {"names": [each.name for each in self._client.list_collections()]}, None
        if call == "drop":
            with self._lock:
                self._collections.pop(name, None)
                self._client.delete_collection(name)
            return {}, None
        if call == "rebuild":
            self._rebuild(name)
            return {}, None
        collection = self._of(name)
        if call == "make":
            return {}, None
        asked = dict(request["with"])
        if call == "upsert":
            collection.upsert(embeddings=request["embeddings"], **asked)
        elif call == "delete":
            collection.delete(**asked)
        elif call == "query":
            found = collection.query(query_embeddings=list(request["embeddings"]), **asked)
            return {"ids": found["ids"], "distances": found["distances"]}, None
        elif call == "get":
            found = collection.get(**asked)
            vectors = found["embeddings"]
            answer = {"ids": found["ids"], "metadatas": found["metadatas"]}
            if vectors is not None and not len(vectors):
                vectors = np.zeros((0, 0), dtype=np.float32)
            return answer, vectors
        return {}, None

    def _of(self, name: str) -> Any:
        with self._lock:
            if name not in self._collections:
                made = self._client.get_or_create_collection(name, **self._options)
                self._collections[name] = made
            return self._collections[name]

    def _rebuild(self, name: str) -> None:
        """Copy a collection, and put the copy in its place. No other call uses it meanwhile."""
        with self._lock:
            old = self._client.get_collection(name, embedding_function=None)
            fresh = self._client.get_or_create_collection(f"{name}{_NEW}", **self._options)
            ids = old.get(include=[])["ids"]
            for start in range(0, len(ids), _ROWS):
                part = old.get(ids=ids[start : start + _ROWS], include=["embeddings", "metadatas"])
                fresh.upsert(
                    ids=part["ids"], embeddings=part["embeddings"], metadatas=part["metadatas"]
                )
            if fresh.count() != len(ids):
                raise ChromaFailed(f"{len(ids)} rows of {name} cannot be copied: they change")
            self._client.delete_collection(name)
            fresh.modify(name=name)
            self._collections.pop(name, None)

    def _recover(self) -> None:
        """Finish, or undo, what a killed process was rebuilding."""
        names = {each.name for each in self._client.list_collections()}
        for name in sorted(names):
            original = name.removesuffix(_NEW)
            if original == name:
                continue
            if original in names:
                self._client.delete_collection(name)
            else:
                copy = self._client.get_collection(name, embedding_function=None)
                copy.modify(name=original)


def serve(store: _Store, connection: Connection) -> None:
    """Answer requests until the connection is closed."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = receive(connection)
            vectors = None
            try:
                answer, vectors = store.answer(request)
            except NotFoundError as error:
                answer = {"missing": str(error)}
            except (ChromaError, ValueError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            send(connection, answer, vectors)


@contextlib.contextmanager
def _threads(store: _Store, descriptors: Sequence[str]) -> Iterator[None]:
    threads = [
        threading.Thread(target=serve, args=(store, Connection(int(each)))) for each in descriptors
    ]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which closes us
    lifeline.end_with(int(sys.argv[2]))
    with _threads(_Store(Path(sys.argv[1])), sys.argv[3:]):
        pass


if __name__ == "__main__":
    main()
