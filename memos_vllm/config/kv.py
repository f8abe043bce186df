"""Section `kv`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from memos_vllm.config.section import Section

NEAR_PROBES = (
    "What does the text above say?",
    "Which names, numbers and dates are mentioned?",
    "Say the most important point in one sentence.",
)


class KVConfig(Section):
    tier: Literal["fs", "lmcache", "none"] = Field(
        "fs",
        description="persistent KV. fs: files; lmcache: files, and LMCache's server for "
        "conversations; none: off",
    )
    lmcache_url: str = Field(
        "tcp://127.0.0.1:5555", description="URL of `lmcache server` for the engine"
    )
    lmcache_http_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8080",),
        description="HTTP frontends of the `lmcache server`s of all replicas; KV is deleted through each",
    )
    lmcache_hash: str = Field("blake3", description="`--hash-algorithm` of the `lmcache server`s")
    lmcache_timeout_seconds: float = Field(
        5.0, gt=0, description="timeout of an LMCache request; after it the KV is computed"
    )
    lmcache_heartbeat_seconds: float = Field(
        2.0, gt=0, le=10, description="heartbeat interval of LMCache's server"
    )
    path: Path | None = Field(None, description="folder of KV on disk; default: under `home`")
    max_bytes: int = Field(
        16 << 30, ge=0, description="KV on disk, bytes; evicted by last use and hits"
    )
    ram_path: Path = Field(Path("/dev/shm"), description="folder in shared memory for hot KV")
    ram_bytes: int = Field(2 << 30, ge=0, description="KV in shared memory, bytes; 0: none")
    prefetch: bool = Field(
        True,
        description="prefetch KV into shared memory: at the start the most recently used, in a session the "
        "person's",
    )
    history: bool = Field(True, description="store the KV of conversations, too, not only of cubes")
    segment_tokens: int = Field(128, ge=16, description="minimum segment of a conversation, tokens")
    promote_uses: float = Field(
        2.0,
        gt=0,
        description="decayed number of uses (half-life 1 h) from which a prompt head is rebuilt when one of "
        "its cubes changes",
    )
    near_heal: bool = Field(
        True, description="build exact KV in the background after approximate KV was served"
    )
    near_recompute_tokens: int = Field(
        0, ge=0, description="tokens at the end of approximate KV that are recomputed"
    )
    near_max_kl: float = Field(
        0.25,
        ge=0,
        description="largest measured KL of the first token at which approximate KV is used, nats",
    )
    near_probes: tuple[str, ...] = Field(
        NEAR_PROBES, description="questions that measure this KL, in the background"
    )
    shared_blocks: bool = Field(
        True,
        description="people of a tenant share the engine's blocks of what all of them may read at the head "
        "of their prompts, as they share its kept KV; false: each has blocks of their own",
    )
    shared_system_prompt_people: int = Field(
        0,
        ge=0,
        description="number of people who must send a system message before its KV is shared in the "
        "tenant, which the next ones can time; 0: only what an admin declares, 1: always",
    )
