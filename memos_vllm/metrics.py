"""Prometheus metrics, on vLLM's own `/metrics`. No label ever names a tenant or a person."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

CHATS = Counter("memos_chats_total", "Chat requests by what memory did", ["outcome"])
STEP_SECONDS = Histogram(
    "memos_step_seconds", "Time of each step in front of the engine", ["step"], buckets=_FAST
)
INJECTED_TOKENS = Counter("memos_injected_tokens_total", "Tokens of memory placed in prompts")
DEGRADED = Counter("memos_degraded_total", "Chats answered with memory left out", ["reason"])
REMEMBERED_TURNS = Counter("memos_remembered_turns_total", "Turns that became memory")
REMEMBER_SECONDS = Histogram("memos_remember_seconds", "Time to make a turn memory", buckets=_FAST)
CLAIMS = Counter("memos_claims_total", "Claims taken up, by what became of them", ["outcome"])
STEP_FAILURES = Counter("memos_step_failures_total", "Added steps that failed", ["step"])
EXTRACTIONS = Counter("memos_extractions_total", "Turns that a model has read", ["outcome"])
JOBS_SET_ASIDE = Counter(
    "memos_jobs_set_aside_total", "Jobs set aside after their last attempt", ["name"]
)
DENIED = Counter("memos_denied_total", "Requests refused at the door", ["status"])
