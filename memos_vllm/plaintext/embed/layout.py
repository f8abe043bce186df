"""Files of a sentence encoder: where its ONNX graph is, how it pools, which prefixes it was trained with.

A folder has the layout of sentence-transformers (`modules.json`, a pooling module's `config.json`,
`sentence_bert_config.json`, `config_sentence_transformers.json`); an ONNX export has `model.onnx` or
`onnx/model.onnx` beside `tokenizer.json`.  Exports often lack the other files: the table of families
stands in for them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from memos_vllm.config.tree import EmbedderConfig

Pooling = Literal["cls", "mean"]

HUB_FILES = ("*.json", "*.txt", "1_Pooling/*")
"""Files of a model on a hub that this module reads, beside the graph."""
GRAPHS = ("model.onnx", "onnx/model.onnx")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
}
_QUERY_PROMPTS, _PASSAGE_PROMPTS = ("query", "search_query"), ("document", "passage", "corpus")


class UnsupportedLayout(ValueError):
    """An ONNX folder that cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Prefixes:
    """Text in front of each question and of each stored passage."""

    query: str = ""
    passage: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """Models that were trained alike, by a part of their name."""

    name: str
    prefixes: Prefixes
    pooling: Pooling


_BGE_ENGLISH = "Represent this sentence for searching relevant passages: "
FAMILIES = (
    Family("e5-mistral", Prefixes(), "mean"),
    Family("e5-", Prefixes("query: ", "passage: "), "mean"),
    Family("nomic-embed", Prefixes("search_query: ", "search_document: "), "mean"),
    Family("bge-m3", Prefixes(), "cls"),
    Family("bge-small-en", Prefixes(_BGE_ENGLISH), "cls"),
    Family("bge-base-en", Prefixes(_BGE_ENGLISH), "cls"),
    Family("bge-large-en", Prefixes(_BGE_ENGLISH), "cls"),
    Family("mxbai-embed", Prefixes(_BGE_ENGLISH), "cls"),
    Family("snowflake-arctic-embed-l-v2", Prefixes("query: "), "cls"),
    Family("snowflake-arctic-embed-m-v2", Prefixes("query: "), "cls"),
    Family("snowflake-arctic-embed", Prefixes(_BGE_ENGLISH), "cls"),
    Family("granite-embedding", Prefixes(), "cls"),
    Family("gte-multilingual", Prefixes(), "cls"),
    Family("gte-base-en-v1.5", Prefixes(), "cls"),
    Family("gte-large-en-v1.5", Prefixes(), "cls"),
)
"""The first whose name is a part of the model's counts. Source: the models' cards."""


def family_of(model: str) -> Family | None:
    """Family of a model, by its name or its folder's."""
    name = Path(model).name.lower()
    return next((family for family in FAMILIES if family.name in name), None)


def prefixes_of(config: EmbedderConfig, folder: Path | None) -> Prefixes:
    """Prefixes by configuration, else by the model's files, else by its family.

    Args:
        folder: of the model; None: not on this machine yet.
    """
    found = _prompts(folder) if folder is not None else None
    if found is None:
        family = family_of(config.model)
        found = family.prefixes if family else Prefixes()
    return Prefixes(
        found.query if config.query_prefix is None else config.query_prefix,
        found.passage if config.passage_prefix is None else config.passage_prefix,
    )


def _prompts(folder: Path) -> Prefixes | None:
    """Prefixes in `config_sentence_transformers.json`; None: it names none."""
    prompts = _read(folder, "config_sentence_transformers.json").get("prompts") or {}
    query, passage = (
        next((prompts[name] for name in names if name in prompts), None)
        for names in (_QUERY_PROMPTS, _PASSAGE_PROMPTS)
    )
    # sentence-transformers writes both, empty, for every model: that says nothing.
    return Prefixes(query or "", passage or "") if query or passage else None


def wants_graph(config: EmbedderConfig) -> bool:
    """Whether ONNX is used for a model that has both a graph and torch weights."""
    if config.runtime == "torch":
        return False
    if config.runtime == "onnx" or config.onnx_file is not None:
        return True
    return config.device == "cpu" and config.dtype == "float32"  # others are torch's


def graph_in(folder: Path, config: EmbedderConfig) -> Path | None:
    """The ONNX graph to run; None: the model runs in torch.

    Raises:
        UnsupportedLayout: the configuration asks for ONNX, or there is nothing else, and it cannot be used.
    """
    if config.runtime == "torch":
        return None
    required = config.runtime == "onnx" or config.onnx_file is not None
    names = GRAPHS if config.onnx_file is None else (config.onnx_file,)
    graph = next((folder / name for name in names if (folder / name).is_file()), None)
    if graph is None:
        if required:
            raise UnsupportedLayout(f"{folder} has no {' or '.join(names)}")
        return None
    # Of a model on a hub, `folder` holds the small files and the graph only.
    on_hub = not Path(config.model).expanduser().is_dir()
    has_weights = on_hub or any(True for pattern in _WEIGHTS for _ in folder.glob(pattern))
    if not required and has_weights:
        if not wants_graph(config):
            return None
        try:
            pooling_of(folder)
        except UnsupportedLayout:
            return None
    if not (folder / "tokenizer.json").is_file():
        if has_weights and not required:
            return None
        raise UnsupportedLayout(f"{folder} has no tokenizer.json")
    return graph


def pooling_of(folder: Path) -> Pooling:
    """How token vectors become one vector.

    Raises:
        UnsupportedLayout: the model pools differently, or has layers behind the pooling.
    """
    modules: Any = _read(folder, "modules.json") or []
    paths = ["1_Pooling"]
    if isinstance(modules, list) and modules:
        kinds = {str(module.get("type", "")).rsplit(".", 1)[-1]: module for module in modules}
        if more := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
            raise UnsupportedLayout(f"{folder} has modules outside of its graph: {more}")
        paths = [str(kinds["Pooling"].get("path"))] if "Pooling" in kinds else paths
    config = _read(folder, f"{paths[0]}/config.json")
    modes = {name for name, on in config.items() if name.startswith("pooling_mode_") and on is True}
    if isinstance(mode := config.get("pooling_mode"), str):  # since sentence-transformers 5.4
        modes = {"pooling_mode_cls_token" if mode == "cls" else f"pooling_mode_{mode}_tokens"}
    if not modes:
        family = family_of(str(folder))
        return family.pooling if family else "mean"
    if len(modes) > 1 or not modes <= _POOLINGS.keys():
        raise UnsupportedLayout(f"{folder} pools by {sorted(modes)}; ONNX: by cls or mean")
    return _POOLINGS[modes.pop()]


def max_tokens_of(folder: Path) -> int:
    """Longest input of the model, tokens, special ones included."""
    positions = _read(folder, "config.json")
    reserved = int(positions.get("pad_token_id") or 0) + 1
    offset = reserved if "roberta" in str(positions.get("model_type", "")) else 0
    limits = [
        _read(folder, "sentence_bert_config.json").get("max_seq_length"),
        _read(folder, "tokenizer_config.json").get("model_max_length"),
        int(positions.get("max_position_embeddings") or 0) - offset,
    ]
    known = [int(limit) for limit in limits if limit and 2 < int(limit) < 1_000_000]
    return min(known) if known else 512


def pad_token_of(folder: Path) -> str | None:
    """Padding token by `tokenizer_config.json` or `special_tokens_map.json`."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read(folder, file).get("pad_token")
        if token:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def _read(folder: Path, name: str) -> Any:
    """A JSON file of the folder; an empty dict where there is none.

    Raises:
        UnsupportedLayout: it is damaged.
    """
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise UnsupportedLayout(f"{folder / name} is damaged: {error}") from error
