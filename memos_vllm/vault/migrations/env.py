"""Alembic's entry: runs on the connection that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from memos_vllm.vault import audit_tables as audit_tables  # these fill the metadata
from memos_vllm.vault import bundle_tables as bundle_tables
from memos_vllm.vault import erasure_tables as erasure_tables
from memos_vllm.vault import replica_tables as replica_tables
from memos_vllm.vault import response_tables as response_tables
from memos_vllm.vault.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True
)
context.run_migrations()
