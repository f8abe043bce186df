"""The data type in which a CPU computes a model fastest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from memos_vllm.cli.terminal import say

CPUINFO = Path("/proc/cpuinfo")


def is_bfloat16_slow(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU emulates bfloat16: an x86 without AVX-512. False where that cannot be told."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return "sse2" in flags and "avx512f" not in flags


def dtype_flags(model: str, given: Sequence[str], cpuinfo: Path = CPUINFO) -> list[str]:
    """`--dtype float32` where bfloat16 is slow, nothing chooses a type, and the model's weights have one.

    Args:
        model: folder, or name on a hub.
        given: names of the flags that are given, without dashes.
    """
    if not is_bfloat16_slow(cpuinfo) or {"dtype", "quantization", "revision"} & set(given):
        return []
    if not _has_plain_weights(model):
        return []
    say(
        "this CPU computes bfloat16 slowly: the model is served in float32, which takes twice the memory "
        "(--dtype bfloat16 keeps it)"
    )
    return ["--dtype", "float32"]


def _has_plain_weights(model: str) -> bool:
    """Whether `config.json` of a model can be read and names no quantisation, whose kernels want types of
    their own."""
    path = Path(model).expanduser() / "config.json"
    try:
        if not path.is_file() and model.count("/") == 1:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(model, "config.json"))
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such model, no hub: vLLM says what is wrong
        return False
    return isinstance(config, dict) and not config.get("quantization_config")
