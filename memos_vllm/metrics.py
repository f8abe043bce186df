"""Prometheus metrics, on vLLM's own `/metrics`. No label names a tenant or a person."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

CHATS = Counter("memos_chats_total", "Chat requests by outcome of memory", ["outcome"])
STEP_SECONDS = Histogram(
    "memos_step_seconds", "Time of each pipeline step before the engine", ["step"], buckets=_FAST
)
INJECTED_TOKENS = Counter("memos_injected_tokens_total", "Tokens of memory placed in prompts")
DEGRADED = Counter("memos_degraded_total", "Chats answered without part of memory", ["reason"])
REMEMBERED_TURNS = Counter("memos_remembered_turns_total", "Turns stored as memory")
REMEMBER_SECONDS = Histogram(
    "memos_remember_seconds", "Time to store a turn as memory", buckets=_FAST
)
CLAIMS = Counter("memos_claims_total", "Extracted claims by outcome", ["outcome"])
INDEX_CHANGE_ITEMS = Gauge(
    "memos_index_change_items",
    "Items that have no vector of a changed embedder yet",
    multiprocess_mode="livemax",
)
REDACTED = Counter(
    "memos_redacted_secrets_total", "Secrets and personal data kept out of memory", ["kind"]
)
FORGOTTEN = Counter("memos_forgotten_items_total", "Items that lost text to an order to forget")
STEP_FAILURES = Counter("memos_step_failures_total", "Failed pipeline steps", ["step"])
EXTRACTIONS = Counter("memos_extractions_total", "Turns read by a model", ["outcome"])
WRITER_REQUESTS = Counter(
    "memos_writer_requests_total",
    "Requests of the memory system to the served model, by form of the prompt",
    ["form"],
)
WRITER_TOKENS = Counter(
    "memos_writer_tokens_total",
    "Prompt tokens of these requests, computed or found in the prefix cache",
    ["form", "state"],
)
JOBS_SET_ASIDE = Counter(
    "memos_jobs_set_aside_total", "Jobs set aside after their last attempt", ["name"]
)
DAMAGED_ITEMS = Counter(
    "memos_damaged_items_total", "Reads of stored items that are not readable and were left out"
)
DENIED = Counter(
    "memos_denied_total", "Requests refused by authentication or access control", ["status"]
)


def count_redacted(kind: str, count: int) -> None:
    REDACTED.labels(kind).inc(count)
