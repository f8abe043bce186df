"""Section `responses`."""

from __future__ import annotations

from pydantic import Field

from memos_vllm.config.section import Section


class ResponsesConfig(Section):
    store: bool = Field(
        True, description="keep replies of `/v1/responses` for `previous_response_id`"
    )
    keep_days: float = Field(
        30.0, gt=0, description="how long a reply is kept that is in no conversation"
    )
