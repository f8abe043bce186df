"""Sentence encoder in torch, through sentence-transformers."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.plaintext.embed.model import Offsets, Vectors

_SPECIAL_TOKENS = 2  # around a text
_DEFAULT_MAX_TOKENS = 512


class TorchModel:
    """A `SentenceModel` of a sentence-transformers name or folder."""

    def __init__(self, config: EmbedderConfig) -> None:
        """
        Raises:
            OSError, ValueError, RuntimeError, KeyError: sentence-transformers cannot load the model.
        """
        torch.set_num_threads(config.threads)
        dtype = {"dtype": getattr(torch, config.dtype)}
        self._batch_size = config.batch_size
        self._model = SentenceTransformer(config.model, device=config.device, model_kwargs=dtype)
        limit = self._model.max_seq_length or _DEFAULT_MAX_TOKENS
        self.max_tokens = limit - _SPECIAL_TOKENS

    def encode(self, texts: list[str]) -> Vectors:
        # The encoder has put the prefix in front: sentence-transformers must not add its default.
        encoded: Any = self._model.encode(
            texts,
            prompt="",
            batch_size=self._batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        vectors: Vectors = encoded
        return vectors

    def offsets(self, text: str) -> Offsets:
        found: Offsets = self._tokens(text, return_offsets_mapping=True)["offset_mapping"]
        return found

    def count(self, text: str) -> int:
        return len(self._tokens(text)["input_ids"])

    def _tokens(self, text: str, **options: Any) -> Any:
        tokenizer: Any = self._model.tokenizer
        return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False, **options)
