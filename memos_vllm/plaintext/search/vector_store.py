"""Vector store in Chroma. The only module that imports it.

Layout: `BUCKETS` collections per view; an owner's digest selects the bucket and marks the vectors.
One collection per owner fails in the embedded store at 10,000 owners (see `benchmarks/owners`):
without a bound each open HNSW index costs about 3 MB and four file handles; with a bound, an index
that is evicted before its first sync returns an error or lacks its last vectors.  Isolation of
owners does not rest on the filter alone: the vault looks up every result under the asking principal
(`VaultViews.recall`), so a dropped filter costs recall and leaks nothing.

Only vectors, item ids and cube ids are stored, no text.  Chroma never embeds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
from chromadb.api import ClientAPI, ServerAPI
from chromadb.api.client import Client
from chromadb.config import Settings, System
from chromadb.errors import ChromaError as ChromaError  # for the process, too
from chromadb.errors import NotFoundError as NotFoundError

from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError, IndexUnavailable
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.embed.model import signature_of
from memos_vllm.plaintext.search.chroma_process import ChromaProcess, NoCollection
from memos_vllm.plaintext.search.generations import FIRST_PREFIX as FIRST_PREFIX
from memos_vllm.plaintext.search.generations import Generation as Generation
from memos_vllm.plaintext.search.generations import Rows as Rows
from memos_vllm.plaintext.search.generations import View as View
from memos_vllm.vault.items import Owner

VIEWS: tuple[View, ...] = ("turn",)
_FORMER_VIEWS = ("window",)
BUCKETS = 64
LAYOUT = f"buckets-{BUCKETS}-2"
READABLE_LAYOUTS = (LAYOUT, f"buckets-{BUCKETS}-1")
"""Layouts that searches can use until the index has the current one. The first had a second view of each
item, and speakers' names in the embedded texts."""
_NAME = re.compile(
    rf"({FIRST_PREFIX}(?:-[0-9a-f]{{8}})?)-(?:{'|'.join((*VIEWS, *_FORMER_VIEWS))})-\d{{3}}"
)
_BATCH = 1000
_HALF_WRITTEN_PAUSES = (0.002, 0.01, 0.05, 0.1)
"""Seconds."""
COLLECTION: dict[str, Any] = {
    "embedding_function": None,
    "metadata": {"hnsw:space": "cosine"},
}
_NEVER_EVICT = 1_000_000  # indexes kept open; there are only len(VIEWS) * BUCKETS of them


class VectorIndex:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._client: ClientAPI | ChromaProcess | None = None
        self._collections: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._lock_file: int | None = None
        self.generation = Generation("")
        """The vectors that searches and writes use; assign to change it."""

    def beside(self, generation: Generation) -> VectorIndex:
        """Another generation in the same store, while this object is open."""
        other = VectorIndex(self._config)
        other.generation = generation
        with self._lock:
            other._client = self._open()
        return other

    def claim(self) -> bool:
        """Lock the embedded store for this process; False: another process has it.

        A Chroma server (`chroma.mode: http`) needs no lock.

        Raises:
            ConfigError: the folder cannot be used.
        """
        if self._config.chroma.mode == "http" or self._lock_file is not None:
            return True
        folder = self._config.chroma_path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / "memos.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._lock_file = file
        return True

    def upsert(
        self, owner: Owner, cube: str, ids: Sequence[str], vectors: Mapping[View, Vectors]
    ) -> None:
        """Store one vector per view for each item id.

        Raises:
            IndexUnavailable: Chroma does not answer.
        """
        self.upsert_all([Rows(owner, cube, ids, vectors)])

    def upsert_all(self, cubes: Sequence[Rows]) -> None:
        """Store the vectors of several cubes, with one call per collection and batch.

        Raises:
            IndexUnavailable: Chroma does not answer.
        """
        by_collection: dict[str, tuple[Any, list[tuple[Rows, View]]]] = {}
        for rows in cubes:
            for view in rows.vectors:
                collection = self._collection(rows.owner, view)
                by_collection.setdefault(collection.name, (collection, []))[1].append((rows, view))
        for collection, parts in by_collection.values():
            ids = [item for rows, _ in parts for item in rows.ids]
            vectors = np.concatenate([rows.vectors[view] for rows, view in parts])
            metadatas = [
                {"owner": owner_digest(rows.owner), "cube": rows.cube}
                for rows, _ in parts
                for _ in rows.ids
            ]
            for start in range(0, len(ids), _BATCH):
                part = slice(start, start + _BATCH)
                with _translated():
                    collection.upsert(
                        ids=ids[part], embeddings=vectors[part], metadatas=metadatas[part]
                    )

    def delete(self, owner: Owner, ids: Sequence[str]) -> None:
        for view in VIEWS if ids else ():
            with _translated():
                self._collection(owner, view).delete(ids=list(ids))

    def drop_cube(self, owner: Owner, cube: str) -> None:
        where: Any = {"$and": [{"owner": owner_digest(owner)}, {"cube": cube}]}
        for view in VIEWS:
            with _translated():
                self._collection(owner, view).delete(where=where)

    def query(
        self,
        owner: Owner,
        view: View,
        vector: Vectors,
        count: int,
        cubes: Sequence[str] | None = None,
    ) -> list[tuple[str, float]]:
        """The nearest items of one owner: (item id, cosine similarity), best first.

        Args:
            cubes: of these only; None: of all.
        """
        self.generation.require(signature_of(vector))
        if cubes is not None and len(cubes) > _BATCH:
            batches = (cubes[start : start + _BATCH] for start in range(0, len(cubes), _BATCH))
            found = [
                hit for each in batches for hit in self.query(owner, view, vector, count, each)
            ]
            return sorted(found, key=lambda hit: -hit[1])[:count]
        where: dict[str, Any] = {"owner": owner_digest(owner)}
        if cubes is not None:
            where = {"$and": [where, {"cube": {"$in": list(cubes)}}]}
        with _translated():
            nearest = self._collection(owner, view).query(
                query_embeddings=[vector],
                n_results=count,
                where=where,
                include=["distances"],
            )
        distances = nearest["distances"] or [[]]
        return [(item, 1.0 - d) for item, d in zip(nearest["ids"][0], distances[0], strict=True)]

    def vectors(
        self, owner: Owner, view: View, ids: Sequence[str]
    ) -> Iterator[tuple[str, Vectors]]:
        """(item id, (dim,) of length 1) of the ids that are stored for the owner.

        Rows that are being written at this moment may be missing.
        """
        digest = owner_digest(owner)
        for start in range(0, len(ids), _BATCH):
            for item_id, row, meta in self._rows(owner, view, list(ids[start : start + _BATCH])):
                if meta["owner"] == digest:
                    yield item_id, row

    def _rows(self, owner: Owner, view: View, ids: list[str]) -> list[tuple[str, Vectors, Any]]:
        """Id, vector and metadata of each stored row.

        Chroma writes the metadata of a row before its vector, and returns fewer vectors than ids in between,
        without saying whose: such an answer is asked for again, and in the end counts as none.
        """
        for pause in _HALF_WRITTEN_PAUSES:
            with _translated():
                found = self._collection(owner, view).get(
                    ids=ids, include=["embeddings", "metadatas"]
                )
            rows = found["ids"], found["embeddings"], found["metadatas"]
            if len({len(column) for column in rows}) == 1:
                return list(zip(*rows, strict=True))
            time.sleep(pause)
        return []

    def ids_of(self, owner: Owner, view: View) -> set[str]:
        """All item ids stored for an owner (checks and tests)."""
        with _translated():
            return set(
                self._collection(owner, view).get(where={"owner": owner_digest(owner)})["ids"]
            )

    def count_by_cube(self, owner: Owner) -> Counter[str]:
        """Stored rows of an owner."""
        with _translated():
            found = self._collection(owner, "turn").get(
                where={"owner": owner_digest(owner)}, include=["metadatas"]
            )
        return Counter(str(meta["cube"]) for meta in found["metadatas"] or ())

    def compact(self, owner: Owner) -> bool:
        """Rewrite the collections of an owner without deleted rows, and Chroma's free space.

        Returns:
            False: a Chroma server has the files, and compacts them itself.
        """
        names = [self._name(owner, view) for view in VIEWS]
        with self._lock, _translated():
            client = self._open()
            if self._config.chroma.mode == "http":
                return False
            if isinstance(client, ChromaProcess):
                client.compact(names)
            else:
                self._stop()
                process = ChromaProcess(self._config.chroma_path)
                try:
                    process.compact(names)
                finally:
                    process.close()
            return True

    def clear(self) -> None:
        """Remove every collection of the generation, before a rebuild."""
        with self._lock, _translated():
            client = self._open()
            for view in VIEWS:
                for bucket in range(BUCKETS):
                    try:
                        client.delete_collection(f"{self.generation.prefix}-{view}-{bucket:03d}")
                    except (NotFoundError, NoCollection):
                        continue
            self._collections.clear()

    def clear_others(self, *kept: Generation) -> None:
        """Remove the collections of all generations but this one and the given ones."""
        prefixes = {self.generation.prefix, *(generation.prefix for generation in kept)}
        with self._lock, _translated():
            client = self._open()
            for collection in client.list_collections():
                name = _NAME.fullmatch(collection.name)
                if name and name[1] not in prefixes:
                    client.delete_collection(collection.name)

    def ping(self) -> None:
        """Check that Chroma answers.

        Raises:
            IndexUnavailable: it does not.
        """
        with _translated():
            self._open().heartbeat()

    def close(self) -> None:
        with self._lock:
            self._stop()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def _stop(self) -> None:
        """End the embedded store; the caller holds the lock."""
        self._collections.clear()
        client, self._client = self._client, None
        if isinstance(client, ChromaProcess):
            client.close()
        elif client is not None and self._config.chroma.mode == "embedded":
            client._system.stop()  # type: ignore[attr-defined]  # of every client with a system

    def _name(self, owner: Owner, view: View) -> str:
        bucket = int(owner_digest(owner)[:8], 16) % BUCKETS
        return f"{self.generation.prefix}-{view}-{bucket:03d}"

    def _collection(self, owner: Owner, view: View) -> Any:
        name = self._name(owner, view)
        with self._lock, _translated():
            if name not in self._collections:
                made = self._open().get_or_create_collection(name, **COLLECTION)
                self._collections[name] = made
            return self._collections[name]

    def _open(self) -> ClientAPI | ChromaProcess:
        with self._lock:
            if self._client is None:
                chroma = self._config.chroma
                if chroma.mode == "http":
                    self._client = chromadb.HttpClient(
                        chroma.host,
                        chroma.port,
                        chroma.ssl,
                        dict(chroma.headers),
                        settings=_settings(),
                    )
                else:
                    self._client = self._open_embedded()
            return self._client

    def _open_embedded(self) -> ClientAPI | ChromaProcess:
        if not self.claim():
            raise ConfigError(
                f"the embedded Chroma store {self._config.chroma_path} is in use by another process; one "
                "process at a time can use it. For several, run `chroma run` and set `chroma.mode: http`"
            )
        if self._config.chroma.process:
            return ChromaProcess(self._config.chroma_path)
        return embedded_client(self._config.chroma_path)


def embedded_client(folder: Path) -> ClientAPI:
    """Chroma's store in this process."""
    settings = _settings()
    settings.is_persistent = True
    settings.persist_directory = str(folder)
    system = System(settings)
    # Every bucket stays open: Chroma 1.5 loses unsynced vectors of an index that it evicts.
    server: Any = system.instance(ServerAPI)  # type: ignore[type-abstract]  # as in Chroma
    server.hnsw_cache_size = _NEVER_EVICT
    system.start()
    return Client.from_system(system)


def owner_digest(owner: Owner) -> str:
    """SHA-256 of tenant and person, 64 hex characters."""
    data = f"{len(owner.tenant)}:{owner.tenant}{owner.person}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def _settings() -> Settings:
    return Settings(anonymized_telemetry=False, chroma_api_impl="chromadb.api.rust.RustBindingsAPI")


@contextmanager
def _translated() -> Iterator[None]:
    """Translate Chroma's errors to IndexUnavailable; an absent server is a ValueError there."""
    try:
        yield
    except (ChromaError, httpx.HTTPError, OSError, ValueError) as error:
        raise IndexUnavailable(f"Chroma does not answer: {error}") from error
