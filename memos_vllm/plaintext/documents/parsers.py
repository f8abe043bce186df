"""Parsers of documents, in processes of their own: a document that is hostile costs itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memos_vllm.config.reader import DocumentsConfig
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.errors import MemosError, TooLarge
from memos_vllm.parsing.pool import Cancelled, ParsingPool, Words

__all__ = ["Cancelled", "DocumentParsers"]

_MODULE = "memos_vllm.plaintext.documents.child"
_THREADS = 64
_WORDS = Words(
    work="document",
    works="documents",
    process="document parser",
    section="reader.documents",
    advice="send it in parts, or as plain text",
    param="file",
)


class DocumentParsers(ParsingPool):
    """Reads documents in processes of their own. Thread-safe."""

    def __init__(self, config: DocumentsConfig) -> None:
        super().__init__(_MODULE, config, _WORDS)
        self._config = config
        # Documents that wait never take the threads of chats.
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="memos-documents")

    def read(
        self,
        name: str,
        data: bytes | Callable[[], bytes],
        max_bytes: int,
        *,
        tenant: str = "",
        gone: threading.Event | None = None,
    ) -> list[Item]:
        """A document's passages, as `read_document`.

        Args:
            data: its bytes, or what reads them once a process is free.
            tenant: never holds all processes while there are several.
            gone: set when the request has ended; the process is killed.

        Raises:
            TooLarge: over `max_bytes` or a limit of `reader.documents`.
            BadRequest, Unprocessable: as `read_document`; or the document ended its parser.
            Unavailable: all processes are busy, or none can be started.
        """

        def checked() -> bytes:
            whole = data if isinstance(data, bytes) else data()
            if len(whole) > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes (limits.document_bytes)", param="file")
            return whole

        config = self._config
        order = {
            "name": name,
            "max_bytes": max_bytes,
            "depth": config.depth,
            "output_bytes": config.output_bytes,
        }
        answer, _ = self.work(order, checked, tenant=tenant, gone=gone)
        return [
            Item(type=ItemType.PASSAGE, text=text, source=source)
            for text, source in answer["passages"]
        ]

    def close(self) -> None:
        super().close()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _error(self, answer: dict[str, Any]) -> MemosError:
        if answer["message"] != "output":
            return super()._error(answer)
        most = self._config.output_bytes
        message = (
            f"the document holds more than {most} bytes of text (reader.documents.output_bytes)"
        )
        return TooLarge(self._advised(message), param="file")
