"""Structured output (JSON schema) for generation in the training process, with xgrammar.

The engine uses xgrammar, too: a schema allows the same tokens in both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


class Schemas:
    """Compiled JSON schemas of one tokenizer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> None:
        """Initialize for a tokenizer.

        Args:
            vocabulary: width of the logits.
            ends: tokens that end an answer.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = list(ends)
        self._compiler: Any = None
        self._compiled: dict[str, Any] = {}

    def processor(self, schema: dict[str, Any]) -> Any:
        """A logits processor for one call of `generate`."""
        from xgrammar.contrib.hf import LogitsProcessor

        return LogitsProcessor(self._of(json.dumps(schema, sort_keys=True)))

    def _of(self, schema: str) -> Any:
        import xgrammar

        if self._compiler is None:
            info = xgrammar.TokenizerInfo.from_huggingface(
                self._tokenizer, vocab_size=self._vocabulary, stop_token_ids=self._ends
            )
            self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        if schema not in self._compiled:
            self._compiled[schema] = self._compiler.compile_json_schema(
                schema, any_whitespace=False
            )
        return self._compiled[schema]
