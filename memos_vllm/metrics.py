"""Prometheus metrics, on vLLM's own `/metrics`. No label names a tenant or a person."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

CHATS = Counter("memos_chats_total", "Chat requests by outcome of memory", ["outcome"])
STEP_SECONDS = Histogram(
    "memos_step_seconds", "Time of each pipeline step before the engine", ["step"], buckets=_FAST
)
INJECTED_TOKENS = Counter("memos_injected_tokens_total", "Tokens of memory placed in prompts")
CACHED_TOKENS = Counter(
    "memos_cached_tokens_total",
    "Prompt tokens that were not computed, by kind of KV and where it came from",
    ["kind", "source"],
)
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
SWEPT = Counter(
    "memos_swept_total",
    "What sweeps did: cubes expired, archived, deleted, failed; items and versions deleted",
    ["what"],
)
SWEEP_SECONDS = Histogram(
    "memos_sweep_seconds", "Time of a sweep", buckets=(0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)
)
SWEEP_TENANTS_LEFT = Gauge(
    "memos_sweep_tenants_left",
    "Tenants that the running sweep has left",
    multiprocess_mode="livemax",
)
SWEEP_ENDED = Gauge(
    "memos_sweep_ended_seconds", "Time of the last whole sweep", multiprocess_mode="max"
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
AUDIT_ALARMS = Counter(
    "memos_audit_alarms_total",
    "Audit logs that are not those of their checkpoints: missing, changed, forged, state",
    ["kind"],
)
AUDIT_CHECKPOINT_FAILURES = Counter(
    "memos_audit_checkpoint_failures_total",
    "Checkpoints that were not written (file) or sent (url)",
    ["where"],
)
AUDIT_READ_FAILURES = Counter(
    "memos_audit_read_failures_total",
    "Failures to record reads of memory before the reply, or to move them into the audit log",
)
SECRET_FAILURES = Counter(
    "memos_secret_failures_total", "Sources of secrets that could not be read again", ["name"]
)
AUDIT_CHECKPOINT_TIME = Gauge(
    "memos_audit_checkpoint_time_seconds",
    "Unix time of the last round of checkpoints",
    multiprocess_mode="livemin",
)

LIMITED = Counter(
    "memos_limited_requests_total",
    "Requests refused by a limit: requests, tokens, concurrency, quota, body, slow, overloaded",
    ["reason"],
)
LIMITS_DEGRADED = Counter(
    "memos_limits_degraded_total",
    "Times that the shared storage of limits did not answer, and each process counted alone",
)
ADMISSION_SECONDS = Histogram(
    "memos_admission_seconds",
    "Time that inference requests waited for their turn beside other tenants",
    buckets=(0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0),
)
ADMISSION_WAITING = Gauge(
    "memos_admission_waiting",
    "Inference requests that wait for their turn",
    multiprocess_mode="livesum",
)
MCP_CALLS = Counter("memos_mcp_calls_total", "Calls of MCP tools", ["tool", "outcome"])


def count_redacted(kind: str, count: int) -> None:
    REDACTED.labels(kind).inc(count)
