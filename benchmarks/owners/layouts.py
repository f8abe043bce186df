"""The compared layouts, behind one interface."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, Protocol

import chromadb
import numpy as np
from chromadb.api import ClientAPI, ServerAPI
from chromadb.api.client import Client
from chromadb.config import Settings, System
from chromadb.errors import ChromaError

from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.errors import IndexUnavailable
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.search.vector_store import VIEWS, VectorIndex, View
from memos_vllm.vault.items import Owner

DIMENSIONS = 384
VECTORS_PER_OWNER = 20
BOUNDED_OPEN_INDEXES = 128
FAILURES = (ChromaError, IndexUnavailable, OSError, ValueError)
"""Errors that a layout may raise; they are counted."""


class Layout(Protocol):
    def add(self, owner: int, vectors: Vectors) -> None:
        """Store an owner's vectors: (VECTORS_PER_OWNER, DIMENSIONS). Raises FAILURES."""

    def search(self, owner: int, vector: Vectors, count: int) -> list[str]:
        """Ids of the owner's nearest vectors. Raises FAILURES."""

    def close(self) -> None: ...


class PerOwner:
    """One collection per owner."""

    def __init__(self, folder: Path, open_indexes: int | None) -> None:
        settings = Settings(
            anonymized_telemetry=False,
            chroma_api_impl="chromadb.api.rust.RustBindingsAPI",
            is_persistent=True,
            persist_directory=str(folder),
        )
        system = System(settings)
        server: Any = system.instance(ServerAPI)
        # Chroma derives its bound from the number of files a process may open.
        server.hnsw_cache_size = open_indexes or 1_000_000
        system.start()
        self._client: ClientAPI = Client.from_system(system)

    def add(self, owner: int, vectors: Vectors) -> None:
        collection = self._client.create_collection(
            _name(owner), embedding_function=None, metadata={"hnsw:space": "cosine"}
        )
        collection.add(ids=ids_of(owner), embeddings=vectors)

    def search(self, owner: int, vector: Vectors, count: int) -> list[str]:
        collection = self._client.get_collection(_name(owner), embedding_function=None)
        found = collection.query(query_embeddings=[vector], n_results=count, include=["distances"])
        return found["ids"][0]

    def close(self) -> None:
        chromadb.api.client.SharedSystemClient.clear_system_cache()


class Buckets:
    """Our layout. One view stores as many vectors as the other layouts; a server stores two."""

    def __init__(self, folder: Path, views: tuple[View, ...]) -> None:
        self._index = VectorIndex(Config(home=folder))
        self._views = views

    def add(self, owner: int, vectors: Vectors) -> None:
        stored: dict[View, Vectors] = dict.fromkeys(self._views, vectors)
        self._index.upsert(_owner(owner), "cube", ids_of(owner), stored)

    def search(self, owner: int, vector: Vectors, count: int) -> list[str]:
        """Ids that every view returned; the search of a request asks all views."""
        found = [self._index.query(_owner(owner), view, vector, count) for view in self._views]
        common = set.intersection(*({item for item, _ in one} for one in found))
        return [item for item, _ in found[0] if item in common]

    def close(self) -> None:
        self._index.close()


NAMES = ("per_owner_unbounded", "per_owner_bounded", "buckets")


def open_layout(name: str, folder: Path) -> Layout:
    """Open one of NAMES in `folder`, which may hold the data of an earlier process."""
    _allow_many_files()
    if name.startswith("buckets"):
        return Buckets(folder, VIEWS)
    return PerOwner(folder, BOUNDED_OPEN_INDEXES if name == "per_owner_bounded" else None)


def ids_of(owner: int) -> list[str]:
    return [f"{owner:06d}-{position:02d}" for position in range(VECTORS_PER_OWNER)]


def vectors_of(owner: int) -> Vectors:
    """(VECTORS_PER_OWNER, DIMENSIONS), equal for an owner in every process."""
    rows = np.random.default_rng(owner).standard_normal((VECTORS_PER_OWNER, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _name(owner: int) -> str:
    return f"owner-{owner:06d}"


def _owner(owner: int) -> Owner:
    return Owner(TenantId("benchmark"), PersonId(_name(owner)))


def _allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
