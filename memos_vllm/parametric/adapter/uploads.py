"""Uploaded adapters, checked in processes of their own: an upload that is hostile costs itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_vllm.config.adapters import AdapterChecksConfig
from memos_vllm.parametric.adapter.checks import CheckedAdapter, parts_of_upload
from memos_vllm.parametric.adapter.peft_config import AdapterConfig
from memos_vllm.parsing.pool import ParsingPool, Words

_MODULE = "memos_vllm.parametric.adapter.child"
_WORDS = Words(
    work="adapter",
    works="adapters",
    process="check of adapters",
    section="adapters.checks",
    param="payload.content.adapter_model",
)


class AdapterUploads(ParsingPool):
    """Checks uploads in processes of their own. Thread-safe."""

    def __init__(self, config: AdapterChecksConfig) -> None:
        super().__init__(_MODULE, config, _WORDS)

    def read(self, content: Mapping[str, Any], limit: int, tenant: str = "") -> CheckedAdapter:
        """Check the `content` of a payload, and write its file anew.

        Args:
            limit: largest size of the weights, bytes.
            tenant: never holds all processes while there are several.

        Raises:
            TooLarge: over `limit`, or a limit of `adapters.checks`.
            Unprocessable: the adapter is invalid; the message names the field.
            Unavailable: all processes are busy, or none can be started.
        """
        config, weights = parts_of_upload(content, limit)
        answer, file = self.work({"config": config}, weights, tenant=tenant)
        shapes = {module: (out, wide) for module, (out, wide) in answer["modules"].items()}
        return CheckedAdapter(AdapterConfig.model_validate(answer["config"]), shapes, file)
