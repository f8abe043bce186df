"""The audit log as the configuration describes it."""

from __future__ import annotations

from memos_vllm.config.tree import Config
from memos_vllm.governance.checkpoint_url import CheckpointUrl
from memos_vllm.governance.read_journal import ReadJournal
from memos_vllm.vault.audit_log import AuditLog
from memos_vllm.vault.audit_reads import AuditReads
from memos_vllm.vault.database import Database


def audit_log(database: Database, config: Config) -> AuditLog:
    chosen = config.governance.audit
    url = None
    if chosen.checkpoint_url is not None:
        url = CheckpointUrl(
            chosen.checkpoint_url, chosen.checkpoint_method, chosen.checkpoint_token
        )
    journal = ReadJournal(config.root / "audit_reads", database.audit_keys)
    return AuditLog(
        database,
        AuditReads(database, journal),
        config.checkpoints_path,
        chosen.checkpoint_seconds,
        chosen.checkpoint_records,
        url,
    )
