"""Encoder process: the embedding model outside of the server's process and its GIL.

Protocol over a socket pair: a request is one JSON message (first the configuration; then texts to
encode, or one to count); an answer is JSON, and a shape is followed by the vectors' bytes (float32,
row by row).  The process ends when its parent closes the connection or ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from memos_vllm import lifeline
from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.encoder import Encoder
from memos_vllm.plaintext.embed.model import Vectors

log = logging.getLogger(__name__)

_RESTART_SECONDS = 30.0  # before a process that ended twice is started again
_END_SECONDS = 1.0


class EncoderProcess:
    """A `TextEncoder` that starts its process at the first use, and again if it ended."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ended: tuple[float, EmbedderUnavailable] | None = None
        self._closed = False

    def encode(self, texts: list[str], query: bool = False) -> Vectors:
        answer = self._request({"encode": texts, "query": query})
        shape: list[int] = answer["shape"]
        return np.frombuffer(answer["bytes"], dtype=np.float32).reshape(shape)

    def count_tokens(self, text: str) -> int:
        return int(self._request({"count": text})["count"])

    def close(self) -> None:
        """Kill the process, also during a batch or the model's load; waiting callers get an error."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return self._process.pid if self._process is not None else None

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._closed:
                raise EmbedderUnavailable("the embedding process is closed")
            if self._ended and time.monotonic() - self._ended[0] < _RESTART_SECONDS:
                raise self._ended[1]
            try:
                answer = self._exchange(request)
            except (EOFError, OSError) as error:
                if self._closed:
                    raise EmbedderUnavailable("the embedding process is closed") from error
                log.warning("the embedding process ended (%s); it is restarted", self._end())
                try:
                    answer = self._exchange(request)
                except (EOFError, OSError) as error:
                    code = self._end()
                    failure = EmbedderUnavailable(f"the embedding process ended twice ({code})")
                    self._ended = (time.monotonic(), failure)
                    raise failure from error
        if "error" in answer:
            raise EmbedderUnavailable(answer["error"])
        return answer

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and receive its answer.

        Raises:
            EOFError: the process has ended.
            OSError: likewise.
        """
        if self._connection is None:
            self._connection = self._started()
        self._connection.send_bytes(json.dumps(request).encode())
        answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "shape" in answer:
            answer["bytes"] = self._connection.recv_bytes()
        return answer

    def _started(self) -> Connection:
        ours, child_end = socket.socketpair()
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(child_end.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            )
        connection = Connection(ours.detach())
        connection.send_bytes(self._config.model_dump_json().encode())
        return connection

    def _end(self) -> str:
        """Close the connection and wait for the process; its exit status as text."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return "not started"
        process, self._process = self._process, None
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:  # in a batch, or in its imports
            process.kill()
            process.wait()
        return f"code {process.returncode}"


def serve(connection: Connection) -> None:
    """Answer requests until the connection is closed."""
    try:
        encoder = Encoder(EmbedderConfig.model_validate_json(connection.recv_bytes()))
        while True:
            request = json.loads(connection.recv_bytes())
            try:
                if "count" in request:
                    _reply(connection, {"count": encoder.count_tokens(request["count"])})
                else:
                    vectors = encoder.encode(request["encode"], request["query"])
                    _reply(connection, {"shape": vectors.shape})
                    connection.send_bytes(vectors.tobytes())
            except EmbedderUnavailable as error:
                _reply(connection, {"error": str(error)})
    except (EOFError, OSError):
        return


def _reply(connection: Connection, answer: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(answer).encode())


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which closes us
    lifeline.end_with(int(sys.argv[2]))  # also during a batch or the model's load
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
