"""MemOS's reference implementation behind HTTP, run by the Python of its own environment: it imports no
module of this repository.

Its general text memory has no users; a person has a MemCube.  Each person has a memory here, opened on first
use and kept open, in a separate folder, because Qdrant's local mode admits one client per folder.  All share
one embedder: MemOS makes one per configuration, and the configurations are equal.  `add` stores the text
unchanged, so the language model is configured and never called.  Prints one JSON line when it is ready.
"""

import argparse
import gc
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

DIMENSION = 384
"""Of all-MiniLM-L6-v2; a collection is made before the first embedding."""


class People:
    """Memories by person, opened by `open_memory` on first use."""

    def __init__(self, open_memory: Callable[[str], Any]) -> None:
        self._open_memory = open_memory
        self._opening = threading.Lock()
        self._opened: dict[str, Any] = {}

    def memory(self, person: str) -> Any:
        with self._opening:
            if person not in self._opened:
                self._opened[person] = one_at_a_time(self._open_memory(person))
            return self._opened[person]


def one_at_a_time(memory: Any) -> Any:
    """Guard the store of a memory with a lock; the embedder stays concurrent.

    MemOS warns that Qdrant's local mode does not support concurrent reads and writes.
    """
    store, alone = memory.vector_db, threading.Lock()

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with alone:
                return method(*args, **options)

        return call

    store.add, store.search = guarded(store.add), guarded(store.search)
    return memory


def memories(home: Path, embedder: Path) -> Callable[[str], Any]:
    os.environ |= {"MEMOS_BASE_PATH": str(home), "HF_HUB_OFFLINE": "1"}
    from memos.configs.memory import MemoryConfigFactory  # reads the environment when imported
    from memos.memories.factory import MemoryFactory

    # MemOS sets the root logger to INFO, at which each embedding would draw a progress bar.
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)

    def open_memory(person: str) -> Any:
        store = {
            "collection_name": person,
            "path": str(home / "qdrant" / person),
            "vector_dimension": DIMENSION,
            "distance_metric": "cosine",
        }
        model = {"model_name_or_path": str(embedder)}
        config = {
            "extractor_llm": {
                "backend": "openai",
                "config": {"model_name_or_path": "none", "api_key": "none"},
            },
            "vector_db": {"backend": "qdrant", "config": store},
            "embedder": {"backend": "sentence_transformer", "config": model},
        }
        return MemoryFactory.from_config(MemoryConfigFactory(backend="general_text", config=config))

    return open_memory


def create_app(people: People) -> FastAPI:
    """HTTP routes; the `key` in an item's metadata is the id of its turn."""
    app = FastAPI()

    def add(body: dict[str, Any]) -> dict[str, Any]:
        item = {"memory": body["text"], "metadata": {"key": body["turn"], "source": "conversation"}}
        people.memory(body["person"]).add([item])
        return {}

    def search(body: dict[str, Any]) -> dict[str, Any]:
        found = people.memory(body["person"]).search(body["query"], body["top_k"])
        return {"results": [item.model_dump(mode="json") for item in found]}

    @app.post("/memories")
    async def additions(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(add, await request.json())

    @app.post("/search")
    async def searches(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(search, await request.json())

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--threads", type=int, help="of the embedder; default: torch's own")
    arguments = parser.parse_args()
    # MemOS logs to stdout, where the parent process expects the JSON line first.
    with redirect_stdout(sys.stderr):
        serve(arguments.home, arguments.embedder, arguments.threads)


def serve(home: Path, embedder: Path, threads: int | None) -> None:
    people = People(memories(home, embedder))
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    people.memory("warm-up").search("warm", 1)
    gc.collect()
    gc.freeze()  # like ours_worker
    server = uvicorn.Server(uvicorn.Config(create_app(people), log_level="warning"))
    packages = ("MemoryOS", "qdrant-client", "sentence-transformers", "torch", "transformers")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready = {
            "port": listening.getsockname()[1],
            "embedder_threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in packages},
        }
        print(json.dumps(ready), file=sys.__stdout__, flush=True)
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
