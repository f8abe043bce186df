"""Bodies of requests: bounded in size, in time, and together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memos_vllm.config.limits import HttpConfig
from memos_vllm.errors import MemosError, Overloaded, RequestTimeout, TooLarge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
_SHORT_BYTES = 1 << 20
_DISCONNECT = {"type": "http.disconnect"}


class Held:
    """Bytes of all bodies that this process holds."""

    def __init__(self) -> None:
        self.bytes = 0


class Incoming:
    """`receive` of one request, with limits.

    Past a limit the application is told that the client has gone away, and `problem` says why; the
    middleware then replaces the application's reply.
    """

    def __init__(self, receive: Receive, config: HttpConfig, held: Held) -> None:
        self._receive, self._config, self._held = receive, config, held
        self._began = time.monotonic()
        self._chunks: list[Message] = []
        """Read in advance."""
        self._declared: int | None = None
        self.size = 0
        self.is_read = False
        """Whether the body has arrived whole."""
        self.is_gone = False
        self.problem: MemosError | None = None

    def check_declared(self, length: str | None, encoding: str | None) -> None:
        """Check the headers `content-length` and `transfer-encoding`. Raises TooLarge, Overloaded."""
        if length is None and encoding is None:
            self._declared = 0
        if length is not None and length.isdigit():
            self._declared = int(length[:20])
            self._check_size(self._declared)

    @property
    def is_short(self) -> bool:
        """Whether the server may read the rest of the body for the sake of the connection."""
        return self.is_read or (self._declared is not None and self._declared <= _SHORT_BYTES)

    async def read(self) -> bytes | None:
        """The whole body, which the application gets again; None: the client has gone away.

        Raises:
            TooLarge, RequestTimeout, Overloaded
        """
        while not self.is_read:
            message = await self._next()
            if self.problem is not None:
                raise self.problem
            if message["type"] != "http.request":
                return None
            self._chunks.append(message)
        return b"".join(chunk.get("body", b"") for chunk in self._chunks)

    async def gone(self) -> None:
        """Wait until the client goes away, after `read`. May be cancelled."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True

    async def receive(self) -> Message:
        """For the application."""
        if self._chunks:
            return self._chunks.pop(0)
        return await self._next()

    def release(self) -> None:
        """The request has ended: its body is no longer held."""
        self._held.bytes -= self.size
        self.size = 0
        self._chunks.clear()

    async def _next(self) -> Message:
        if self.is_gone or self.problem is not None:
            return dict(_DISCONNECT)
        if self.is_read:
            message: Message = await self._receive()
            return message
        try:
            async with asyncio.timeout(self._left()):
                message = await self._receive()
        except TimeoutError:
            self.problem = RequestTimeout(
                f"the body took longer than {self._config.body_seconds:g} s and "
                f"{self._config.body_bytes_per_second} bytes a second (http.body_seconds)"
            )
            return dict(_DISCONNECT)
        if message["type"] != "http.request":
            self.is_gone = True
            return message
        size = len(message.get("body", b""))
        self.size += size
        self._held.bytes += size
        self.is_read = not message.get("more_body", False)
        try:
            self._check_size(self.size, arrived=self.size)
        except MemosError as error:
            self.problem = error
            self._chunks.clear()
            return dict(_DISCONNECT)
        return message

    def _left(self) -> float:
        allowed = self._config.body_seconds + self.size / self._config.body_bytes_per_second
        return max(0.001, self._began + allowed - time.monotonic())

    def _check_size(self, size: int, arrived: int = 0) -> None:
        if size > self._config.body_bytes:
            raise TooLarge(
                f"the body has more than {self._config.body_bytes} bytes (http.body_bytes): send it in "
                "several requests"
            )
        if self._held.bytes + size - arrived > self._config.bodies_bytes:
            raise Overloaded("the server holds too many bodies (http.bodies_bytes)", 2.0)
