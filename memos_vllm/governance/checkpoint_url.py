"""Sends checkpoints of the audit log to a URL on another machine.

POST appends: the body is one JSON line.  PUT makes one object a checkpoint, below the URL:
`<digest of the tenant>/<size, 20 digits>-<start of the root>.json`, for stores whose objects cannot be overwritten.
"""

from __future__ import annotations

from typing import Literal

import httpx

from memos_vllm.errors import AuditUnavailable
from memos_vllm.governance.checkpoints import Checkpoint, file_name

_TIMEOUT_SECONDS, _CONNECT_SECONDS = 10.0, 3.0


class CheckpointUrl:
    def __init__(
        self, url: str, method: Literal["POST", "PUT"] = "POST", token: str | None = None
    ) -> None:
        """
        Args:
            url: https, or http on loopback.
            method: as above.
            token: sent as `Authorization: Bearer`.
        """
        self._url, self._method = url.rstrip("/") if method == "PUT" else url, method
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def send(self, checkpoint: Checkpoint) -> None:
        """Raises AuditUnavailable: the other side does not answer with a 2xx; nothing is retried here."""
        url = self._url
        if self._method == "PUT":
            folder = file_name(checkpoint.tenant).removesuffix(".jsonl")
            url = f"{url}/{folder}/{checkpoint.size:020d}-{checkpoint.root[:16]}.json"
        try:
            answer = httpx.request(
                self._method,
                url,
                content=checkpoint.line(),
                headers=self._headers,
                timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=_CONNECT_SECONDS),
            )
        except httpx.HTTPError as error:
            raise AuditUnavailable(
                f"`governance.audit.checkpoint_url` does not answer: {error}"
            ) from error
        if not answer.is_success:
            raise AuditUnavailable(
                f"`governance.audit.checkpoint_url` answers with status {answer.status_code}"
            )
