"""The Memory API in its own process, without an engine: `python -m benchmarks.memory_load.ours_worker`.

The parts are those of a server: vault (SQLite), Chroma, embedder, outbox, authentication.  Prints one JSON
line when it is ready.
"""

from __future__ import annotations

import argparse
import gc
import json
import socket
from pathlib import Path

import uvicorn

from memos_vllm.api.app import create_app
from memos_vllm.config.load import load_config
from memos_vllm.system import MemorySystem


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_load.ours_worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", help="of the embedder")
    arguments = parser.parse_args()
    # No query cache: questions repeat, and each is to be embedded.
    embedder = {"model": str(arguments.embedder), "query_cache": 0}
    embedder["dtype"] = arguments.dtype
    overrides = {"home": str(arguments.home), "embedder": embedder}
    system = MemorySystem(load_config(overrides=overrides)).open()
    system.embedder.warm()
    system.indexer.start()
    gc.collect()
    gc.freeze()  # like vLLM at the start of its server, and like the rivals' workers
    server = uvicorn.Server(uvicorn.Config(create_app(system), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        threads = system.config.embedder.threads
        print(json.dumps({"port": port, "embedder_threads": threads}), flush=True)
        server.run(sockets=[listening])
    system.close()


if __name__ == "__main__":
    main()
