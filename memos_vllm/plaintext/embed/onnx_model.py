"""Sentence encoder in ONNX Runtime: tokenizer, graph, pooling. It needs neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.plaintext.embed.layout import (
    Pooling,
    UnsupportedLayout,
    max_tokens_of,
    pad_token_of,
    pooling_of,
)
from memos_vllm.plaintext.embed.model import Offsets, Vectors

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PAD_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")
_DONE = "sentence_embedding"
"""Name of an output that is pooled already."""


class OnnxModel:
    """A `SentenceModel` of a folder with an ONNX graph and `tokenizer.json`."""

    def __init__(self, config: EmbedderConfig, folder: Path, graph: Path) -> None:
        """
        Raises:
            ValueError: the folder cannot be used; other errors of ONNX Runtime and of the tokenizer.
        """
        self._batch_size = config.batch_size
        self._session = onnxruntime.InferenceSession(
            str(graph), _options(config.threads), providers=[_provider(config.device)]
        )
        self._inputs = {node.name for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self._output: str = _DONE if _DONE in outputs else outputs[0]
        if unknown := self._inputs - {"input_ids", "attention_mask", "token_type_ids"}:
            raise UnsupportedLayout(f"{graph} has unknown inputs: {sorted(unknown)}")
        self._pooling: Pooling | None = None if self._output == _DONE else pooling_of(folder)
        file = str(folder / "tokenizer.json")
        self._counter: Any = Tokenizer.from_file(file)  # tokens of whole texts
        self._counter.no_truncation()
        self._counter.no_padding()
        self._tokenizer: Any = Tokenizer.from_file(file)
        limit = max_tokens_of(folder)
        self._tokenizer.enable_truncation(limit)
        self._tokenizer.no_padding()
        self._pad = _pad_id(self._tokenizer, pad_token_of(folder))
        self.max_tokens = limit - int(self._tokenizer.num_special_tokens_to_add(False))

    def encode(self, texts: list[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(texts)
        # Texts of similar length share a batch, so that little is computed for padding.
        order = sorted(range(len(texts)), key=lambda position: -len(encodings[position].ids))
        rows: list[Vectors] = []
        for start in range(0, len(order), self._batch_size):
            rows.append(
                self._run([encodings[n].ids for n in order[start : start + self._batch_size]])
            )
        vectors = np.concatenate(rows)
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return restored

    def offsets(self, text: str) -> Offsets:
        found: Offsets = self._counter.encode(text, add_special_tokens=False).offsets
        return found

    def count(self, text: str) -> int:
        return len(self._counter.encode(text, add_special_tokens=False).ids)

    def _run(self, batch: list[list[int]]) -> Vectors:
        """Embed token ids: (len(batch), dim), rows of length 1."""
        longest = max(map(len, batch))
        ids = np.full((len(batch), longest), self._pad, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self._session.run([self._output], {name: feeds[name] for name in self._inputs})
        pooled = _pooled(np.asarray(states, dtype=np.float32), mask, self._pooling)
        unit: Vectors = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return unit


def _pooled(states: Vectors, mask: Any, pooling: Pooling | None) -> Vectors:
    """(batch, dim) of the graph's output, (batch, tokens, dim) unless it is pooled already."""
    if pooling is None:
        return states
    if pooling == "cls":
        return states[:, 0]
    weights = mask[:, :, None].astype(np.float32)
    mean: Vectors = (states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    return mean


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Waiting threads sleep: the cores belong to the chat model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _provider(device: str) -> str:
    provider = _PROVIDERS.get(device.split(":")[0])
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise UnsupportedLayout(f"this ONNX Runtime has no provider for the device {device!r}")
    return provider


def _pad_id(tokenizer: Any, token: str | None) -> int:
    for name in (token, *_PAD_TOKENS):
        if name is not None and (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    return 0
