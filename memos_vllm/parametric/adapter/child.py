"""The process that checks uploaded adapters. It imports neither torch nor vLLM."""

from __future__ import annotations

from typing import Any

from memos_vllm.parametric.adapter.checks import checked_file
from memos_vllm.parsing.child import Answer, run


def read(order: dict[str, Any], data: bytes) -> Answer:
    checked = checked_file(order["config"], data)
    told = {"config": checked.config.model_dump(mode="json"), "modules": checked.shapes}
    return told, checked.file


if __name__ == "__main__":
    run(read, ("numpy", "safetensors"))
