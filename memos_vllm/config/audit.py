"""Section `governance.audit`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from memos_vllm.config.section import Section


class AuditConfig(Section):
    key_file: Path | None = Field(
        None,
        description="secrets of the audit log, one a line, newest last; made where absent, the same for all "
        "replicas; default: `audit.keys` under `home`",
    )
    checkpoints: Path | None = Field(
        None, description="folder of signed checkpoints; default: `audit` under `home`"
    )
    checkpoint_seconds: float = Field(
        10.0, gt=0, description="interval of checkpoints, while there are new records"
    )
