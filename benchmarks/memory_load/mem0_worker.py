"""mem0 behind HTTP, run by the Python of its own environment: it imports no module of this repository.

Like mem0's own server: FastAPI, a thread per request, one `Memory`.  `infer=False` stores the text
unchanged, so the language model is configured and never called.  Prints one JSON line when it is ready.
"""

import argparse
import gc
import json
import os
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool


def open_memory(home: Path, embedder: Path) -> Any:
    os.environ |= {"MEM0_DIR": str(home), "MEM0_TELEMETRY": "False", "HF_HUB_OFFLINE": "1"}
    from mem0 import Memory  # reads the environment when it is imported

    return Memory.from_config(
        {
            "vector_store": {
                "provider": "chroma",
                "config": {"collection_name": "memories", "path": str(home / "chroma")},
            },
            "embedder": {"provider": "huggingface", "config": {"model": str(embedder)}},
            "llm": {"provider": "openai", "config": {"model": "none", "api_key": "none"}},
            "history_db_path": str(home / "history.db"),
        }
    )


def create_app(memory: Any) -> FastAPI:
    app = FastAPI()

    def add(body: dict[str, Any]) -> dict[str, Any]:
        message = [{"role": "user", "content": body["text"]}]
        metadata = {"turn": body["turn"]}
        return memory.add(message, user_id=body["person"], metadata=metadata, infer=False)

    def search(body: dict[str, Any]) -> dict[str, Any]:
        filters = {"user_id": body["person"]}
        return memory.search(body["query"], top_k=body["top_k"], filters=filters)

    @app.post("/memories")
    async def memories(request: Request) -> dict[str, Any]:
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
    memory = open_memory(arguments.home, arguments.embedder)
    import torch

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    memory.search("warm", filters={"user_id": "warm-up"})
    gc.collect()
    gc.freeze()  # like ours_worker
    server = uvicorn.Server(uvicorn.Config(create_app(memory), log_level="warning"))
    packages = ("mem0ai", "chromadb", "sentence-transformers", "torch", "transformers")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready = {
            "port": listening.getsockname()[1],
            "embedder_threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in packages},
        }
        print(json.dumps(ready), flush=True)
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
