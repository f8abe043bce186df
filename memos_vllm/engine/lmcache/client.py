"""Typed clients over LMCache's adapters: each call returns, or raises `LMCacheError`.

LMCache documents no errors of its own, and raises what its transport raises; here each becomes one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from memos_vllm.engine.lmcache.messages import Transfer


class LMCacheError(Exception):
    """A call to LMCache that failed; its cause is LMCache's error."""


@contextlib.contextmanager
def foreign(call: str) -> Iterator[None]:
    """Translate every error of a call to LMCache. Raises LMCacheError."""
    try:
        yield
    # Around foreign code, whose errors are not documented.
    except Exception as error:
        raise LMCacheError(f"LMCache fails at {call}: {error}") from error


class _Client:
    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    @property
    def is_healthy(self) -> bool:
        """Whether LMCache's heartbeat has an answer."""
        return bool(self._adapter.is_healthy)

    def shutdown(self) -> None:
        """Disconnect; may wait for a server that is gone. Raises LMCacheError."""
        with foreign("shutdown"):
            self._adapter.shutdown()


class LookupClient(_Client):
    """LMCache in the engine core: lookups, and the locks of the chunks that they found."""

    @property
    def chunk_tokens(self) -> int:
        """Tokens in a chunk."""
        tokens: int = self._adapter.lmcache_tokens_per_chunk
        return tokens

    def submit_lookup(self, request_id: str, tokens: list[int], salt: str) -> None:
        """Look up a prompt's chunks, and lock those that LMCache has. Raises LMCacheError."""
        with foreign("submit_lookup"):
            self._adapter.maybe_submit_lookup_request(request_id, token_ids=tokens, cache_salt=salt)

    def lookup_result(self, request_id: str) -> int | None:
        """Tokens that LMCache has; None: no answer yet. Raises LMCacheError."""
        with foreign("lookup_result"):
            tokens: int | None = self._adapter.check_lookup_result(request_id)
        return tokens

    def forget_lookup(self, request_id: str) -> None:
        """Raises LMCacheError."""
        with foreign("forget_lookup"):
            self._adapter.cleanup_lookup_result(request_id)

    def unlock(self, request_id: str, tokens: list[int], end: int, salt: str) -> None:
        """Release the locks of a lookup's chunks up to token `end`. Raises LMCacheError."""
        with foreign("unlock"):
            self._adapter.free_lookup_locks(
                token_ids=tokens, start=0, end=end, request_id=request_id, cache_salt=salt
            )

    def end_session(self, request_id: str) -> None:
        """Raises LMCacheError."""
        with foreign("end_session"):
            self._adapter.end_session(request_id)


class TransferClient(_Client):
    """LMCache in a worker: copies between its chunks and the paged cache."""

    def record_event(self) -> Any:
        """An event behind the device's queued work; None on a CPU. Raises LMCacheError."""
        with foreign("record_event"):
            return self._adapter.create_recorded_event()

    def load(self, transfer: Transfer, event: Any) -> bool:
        """Copy into the paged cache, and wait for the end; False: LMCache did not.

        Raises LMCacheError.
        """
        operation = _operation(transfer)
        with foreign("load"):
            self._adapter.submit_retrieve_request(
                transfer.request_id, operation, event, cache_salt=transfer.salt
            )
            future, _ = self._adapter.retrieve_futures.pop(transfer.request_id, (None, None))
            return _is_done(future)

    def save(self, transfer: Transfer, event: Any) -> bool:
        """Copy out of the paged cache, and wait for the end; False: LMCache did not.

        Raises LMCacheError.
        """
        operation = _operation(transfer)
        with foreign("save"):
            self._adapter.submit_store_request(
                transfer.request_id, operation, event, cache_salt=transfer.salt
            )
            return _is_done(self._adapter.store_futures.pop(transfer.request_id, None))


def _is_done(future: Any) -> bool:
    # Wait without a limit: the blocks may belong to another request once the caller gives up. Each
    # step of a transfer ends by LMCache's own time-out.
    return future is not None and bool(future.result())


def _operation(transfer: Transfer) -> Any:
    """A transfer as LMCache's operation."""
    from lmcache.integration.vllm.vllm_multi_process_adapter import LoadStoreOp

    return LoadStoreOp(
        token_ids=list(transfer.tokens),
        block_ids=[list(transfer.block_ids)],
        start=transfer.start,
        end=transfer.end,
        skip_first_n_tokens=transfer.skip,
    )
