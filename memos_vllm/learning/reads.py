"""Record what enters a prompt, before the first token of its reply."""

from __future__ import annotations

import asyncio
import logging

from memos_vllm import metrics
from memos_vllm.config.audit import AuditConfig
from memos_vllm.errors import AuditUnavailable
from memos_vllm.ports import Chat
from memos_vllm.vault.audit_reads import AuditReads, read_of

log = logging.getLogger(__name__)


class ReadRecorder:
    def __init__(self, reads: AuditReads, config: AuditConfig) -> None:
        self._reads, self._config = reads, config

    async def begin(self, chat: Chat, request_id: str) -> None:
        """Write the memory of this prompt to the journal.

        With `governance.audit.required` it is on the disk when this returns; else it is before the
        engine's first token is passed on (`Chat.recorded`).

        Raises:
            AuditUnavailable: it cannot be written, and is required.
        """
        used = chat.plan.used
        if not used or self._config.reads == "after_reply":
            return
        cubes = [f"{entry.cube}@{entry.version}" for entry in used]
        chat.read = read_of(chat.principal, request_id, cubes)
        written = asyncio.wrap_future(self._reads.journal.append(chat.read))
        if self._config.required:
            await written
        else:
            chat.recorded = asyncio.ensure_future(self._written(chat, written))

    def end(self, chat: Chat, recorded: bool) -> None:
        """The audit log has the record of the plan, or the database did not take it."""
        if chat.read is not None:
            (self._reads.recorded if recorded else self._reads.not_recorded)(chat.read)

    @staticmethod
    async def _written(chat: Chat, written: asyncio.Future[None]) -> None:
        try:
            await written
        except AuditUnavailable as error:
            metrics.AUDIT_READ_FAILURES.inc()
            log.error(
                "a reply is given whose read of memory is recorded only afterwards: %s", error
            )
            if error.reason not in chat.plan.degraded:
                chat.plan.degraded.append(error.reason)
                metrics.DEGRADED.labels(error.reason).inc()
