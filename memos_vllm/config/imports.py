"""Section `imports`: files of other systems, read in a process of their own."""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class ImportsConfig(Section):
    processes: int = Field(
        1,
        ge=1,
        le=16,
        description="imported files that are read at a time, each in its own process",
    )
    seconds: float = Field(
        600.0, gt=0, description="time limit of reading one file, also of processor time"
    )
    memory_bytes: int = Field(
        2 << 30, ge=256 << 20, description="memory limit of a reading process (address space)"
    )
    wait_seconds: float = Field(
        30.0, ge=0, description="how long a file waits for a reading process; then 503"
    )
    text_bytes: int = Field(
        1 << 30, ge=1, description="unpacked text that is read of one file, bytes"
    )
    output_bytes: int = Field(
        256 << 20, ge=1, description="conversations and facts of one file, bytes"
    )
    members: int = Field(100_000, ge=1, description="members of a zip file")
    ratio: int = Field(200, ge=2, description="highest compression of a member of a zip file")
