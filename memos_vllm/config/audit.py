"""Section `governance.audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from memos_vllm.config.section import Section

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    checkpoint_records: int = Field(
        1000, ge=1, description="new records after which a checkpoint comes earlier"
    )
    checkpoint_url: str | None = Field(
        None,
        description="address on another machine that takes each checkpoint, https (http on loopback only)",
    )
    checkpoint_method: Literal["POST", "PUT"] = Field(
        "POST",
        description="POST: one JSON line to the address; PUT: an object of its own below the address",
    )
    checkpoint_token: str | None = Field(
        None, description="bearer token for the address", repr=False
    )

    reads: Literal["before_reply", "after_reply"] = Field(
        "before_reply",
        description="before_reply: memory that enters a prompt is on the disk of the server, in the folder "
        "`audit_reads` under `home`, before the first token of the reply; after_reply: in the audit log only, "
        "after the reply",
    )
    required: bool = Field(
        False,
        description="true: without that record the chat is refused with a 503, before the engine sees it; "
        "false: it is answered, says so and raises an alarm",
    )

    @field_validator("checkpoint_url")
    @classmethod
    def _is_encrypted(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        is_local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not parts.hostname or not (parts.scheme == "https" or is_local):
            raise ValueError("an https address, or http on loopback")
        return url
