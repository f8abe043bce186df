"""Section `adapters`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.config.section import Section


class AdapterChecksConfig(Section):
    processes: int = Field(
        2, ge=1, le=64, description="uploads checked at a time, each in a process of its own"
    )
    seconds: float = Field(
        60.0, gt=0, description="time limit of one check, also of processor time"
    )
    memory_bytes: int = Field(
        2 << 30,
        ge=256 << 20,
        description="memory limit of a checking process (address space); about five times "
        "`limits.adapter_bytes`",
    )
    wait_seconds: float = Field(
        30.0, ge=0, description="how long an upload waits for a checking process; then 503"
    )


class AdaptersConfig(Section):
    merge: Literal["auto", "svd", "ties", "dare_ties", "none"] = Field(
        "none",
        description="how to merge several adapters of one request; auto: exact sum where the ranks fit "
        "`--max-lora-rank`, else its best low-rank approximation (svd); none: attach only the best. "
        "Adapters trained on text interfere: see the benchmark `recall`",
    )
    merged_at_most: int = Field(4, ge=2, description="most adapters merged into one")
    checks: AdapterChecksConfig = AdapterChecksConfig()
