"""Fingerprint of the served model: a digest over everything that KV depends on but the tokens.

The weights count by their contents, not by their name: files of a hub's cache are named by their
digest already, others are read once and remembered by path, size and time.  Where no weight files are
found, the model's name and revision count instead, with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from memos_vllm.activation.names import Namer

log = logging.getLogger("vllm.memos_kv")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_SHAPE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "sliding_window",
)


def fingerprint(vllm_config: Any, cache: Path) -> bytes:
    """Digest of the served model. The same in the API process, the engine core and every worker.

    Args:
        vllm_config: of the engine.
        cache: folder in which digests of weight files are remembered.
    """
    text = json.dumps(describe(vllm_config, cache), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).digest()


def describe(vllm_config: Any, cache: Path) -> dict[str, Any]:
    model = vllm_config.model_config
    shape = model.hf_text_config
    return {
        "weights": weights_digest(model, cache) or _name(model),
        "load_format": str(vllm_config.load_config.load_format),
        "quantization": model.quantization,
        "dtype": str(model.dtype),
        "kv_dtype": str(vllm_config.cache_config.cache_dtype),
        "layers": model.get_num_layers(vllm_config.parallel_config),
        **{name: getattr(shape, name, None) for name in _SHAPE},
    }


def weights_digest(model: Any, cache: Path) -> str | None:
    """Digest over the names and contents of the weight files; None where none are found.

    Raises OSError: a file cannot be read.
    """
    folder = _folder(model)
    if folder is None:
        return None
    files = [folder] if folder.is_file() else sorted({p for g in _WEIGHTS for p in folder.glob(g)})
    if not files:
        return None
    hasher = blake3()
    for path in files:
        hasher.update(f"{path.name}\0{_digest(path, cache)}\0".encode())
    return hasher.hexdigest()


def _folder(model: Any) -> Path | None:
    local = Path(model.model)
    if local.exists():
        return local
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.model, revision=model.revision, local_files_only=True))
    except (OSError, ValueError) as error:  # the cache lacks it; or it is no name of the hub
        log.warning("the weight files of %s are not found: %s", model.model, error)
        return None


def _name(model: Any) -> list[str | None]:
    """Identity of a model without weight files."""
    log.warning(
        "KV is identified by the name %s, revision %s, and not by the contents of its weights: "
        "delete the KV if the weights change under this name",
        model.model,
        model.revision,
    )
    return [model.model, model.revision]


def _digest(path: Path, cache: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs":  # of a hub's cache: the file's name is the digest
        return real.name
    status = real.stat()
    path_digest = hashlib.sha256(str(real).encode()).hexdigest()[:24]
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    note = cache / f"{path_digest}-{stamp}"
    with contextlib.suppress(OSError):
        return note.read_text()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(real)
    digest: str = hasher.hexdigest()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        note.write_text(digest)
    return digest


def namer(vllm_config: Any, kv_path: Path) -> Namer:
    """Names of segments of the served model, alike in every process."""
    return Namer(fingerprint(vllm_config, kv_path / "weights"), tuple(rank_names(vllm_config)))


def rank_names(vllm_config: Any) -> Iterator[str]:
    """The rank of each worker in the names of its segments."""
    world = vllm_config.parallel_config.world_size
    for rank in range(world):
        yield "" if world == 1 else f"{rank}of{world}"
