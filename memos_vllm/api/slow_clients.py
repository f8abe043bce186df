"""A time limit of request lines and headers, for uvicorn, which has none.

uvicorn closes idle connections between two requests, and waits for ever for the rest of a request's
headers.  `install` puts a subclass in the place of the protocol class that `uvicorn.Config` will load: the
server that vLLM starts later uses it.  Bodies have their limit in `api.bodies`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from memos_vllm import metrics
from memos_vllm.errors import RequestTimeout, envelope

_MARK = "_memos_timed"
_DRAINED_BYTES = 64 << 20
_LATE = (
    "slow",
    "408 Request Timeout",
    "the request's headers come too slowly (http.header_seconds)",
)
_LARGE = (
    "body",
    "431 Request Header Fields Too Large",
    "the request's headers are too large (http.header_bytes)",
)


def install(header_seconds: float, header_bytes: int) -> None:
    """Limit the headers of every HTTP connection of this process. A later call changes nothing."""
    from uvicorn.protocols.http import auto

    current: Any = auto.AutoHTTPProtocol
    if getattr(current, _MARK, None) is None:
        auto.AutoHTTPProtocol = timed(current, header_seconds, header_bytes)


def timed(protocol: Any, header_seconds: float, header_bytes: int = 65536) -> Any:
    """A subclass of one of uvicorn's protocol classes (httptools, h11) with limits of headers."""

    class TimedProtocol(protocol):  # type: ignore[misc]
        _headers_late: asyncio.TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch_headers()

        def data_received(self, data: bytes) -> None:
            self._header_bytes += len(data)
            super().data_received(data)
            is_websocket = self.transport.get_protocol() is not self
            if is_websocket or self.transport.is_closing() or not self._awaits_headers():
                self._stop_watching()
            elif self._header_bytes > header_bytes + (_DRAINED_BYTES if self._drains() else 0):
                self._refuse(_LARGE)
            elif self.timeout_keep_alive_task is None:  # else it is idle between two requests
                self._watch_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watching()
            super().connection_lost(exc)

        def _awaits_headers(self) -> bool:
            """Whether no request is at work on the connection; `cycle` is one whose headers came."""
            return self.cycle is None or self.cycle.response_complete

        def _drains(self) -> bool:
            """Whether the rest of a body may come whose request was refused before it was read."""
            return self.cycle is not None and self.cycle.more_body

        def _watch_headers(self) -> None:
            if self._headers_late is None:
                self._headers_late = self.loop.call_later(header_seconds, self._close_late)

        def _stop_watching(self) -> None:
            if self._headers_late is not None:
                self._headers_late.cancel()
                self._headers_late = None
            self._header_bytes = 0

        def _close_late(self) -> None:
            self._headers_late = None
            if self.transport.is_closing() or not self._awaits_headers():
                return
            if self._header_bytes:
                self._refuse(_LATE)
            self.transport.close()

        def _refuse(self, refusal: tuple[str, str, str]) -> None:
            reason, status, message = refusal
            metrics.LIMITED.labels(reason).inc()
            self._stop_watching()
            if not self._drains():  # else the reply to that request has been sent
                self.transport.write(_reply(status, message))
            self.transport.close()

    setattr(TimedProtocol, _MARK, True)
    return TimedProtocol


def _reply(status: str, message: str) -> bytes:
    body = json.dumps(envelope(RequestTimeout(message))).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
