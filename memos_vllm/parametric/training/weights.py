"""The base model in the training process: chat templating, generation and logits of answers.

Batches are padded on the left, so that all answers end at the last position.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from memos_vllm.errors import BadRequest
from memos_vllm.parametric.training.schema import Schemas
from memos_vllm.prompt.layout import control_string_breaker
from memos_vllm.writer.base import Ask, Message

log = logging.getLogger(__name__)
_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_TOKENS_AT_ONCE = 8192
"""Prompt tokens in one batch of generation."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """Tokens of a prompt and of its answer."""

    prompt: list[int]
    answer: list[int]
    """Includes the end token."""


class ContextKV:
    """KV of a prompt prefix, computed by the engine."""

    def __init__(self, kv: torch.Tensor) -> None:
        """Wrap a tensor.

        Args:
            kv: (layers, 2, tokens, kv_heads, head_dim)
        """
        self._kv = kv
        self.tokens = kv.shape[2]

    def cache(self, rows: int) -> Any:
        """A new cache for a batch of `rows`; a forward pass changes it, so use it for one batch."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for layer, (k, v) in enumerate(self._kv):
            # (tokens, heads, head_dim) → (rows, heads, tokens, head_dim)
            cache.update(*(each.transpose(0, 1).expand(rows, -1, -1, -1) for each in (k, v)), layer)
        return cache


class Weights:
    """A causal language model with its tokenizer."""

    def __init__(self, path: str, revision: str | None = None, device: str | None = None) -> None:
        """Load the model.

        Args:
            path: folder or name of the model.

        Raises:
            BadRequest: it cannot be loaded as a causal language model, or has no chat template.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=revision)
            load: Any = AutoModelForCausalLM.from_pretrained
            # For short sequences on a CPU, the backward pass of eager attention is faster.
            extra = {"attn_implementation": "eager"} if self.device == "cpu" else {}
            dtype = compute_dtype(self.device)
            self.model: Any = load(path, revision=revision, dtype=dtype, **extra)
        except (OSError, ValueError) as error:
            raise BadRequest(f"the base model cannot be loaded for training: {error}") from error
        if self.tokenizer.chat_template is None:
            raise BadRequest("the base model has no chat template: training needs a chat model")
        self.model.to(self.device).eval()
        self.ends = _as_list(self.model.generation_config.eos_token_id) or [
            self.tokenizer.eos_token_id
        ]
        self._schemas = Schemas(self.tokenizer, self.model.config.vocab_size, self.ends)
        self.pad_token: int = self.tokenizer.pad_token_id or self.ends[0]
        # No scaling between the last layer and the head: apply the head to the answers' positions only.
        self._is_plain = not any(getattr(self.model.config, name, None) for name in _SCALES)
        self.escape = control_string_breaker(
            [*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()]
        )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a chat up to the reply."""
        tokens: list[int] = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        return tokens

    def context(self, kv: torch.Tensor) -> ContextKV:
        """KV on the model's device. Raises BadRequest: its shape is not the model's."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        if kv.shape[0] != config.num_hidden_layers or kv.shape[3] != heads:
            raise BadRequest(f"KV of shape {tuple(kv.shape)} does not fit this model")
        return ContextKV(kv.to(self.device, self.model.dtype))

    def answered(self, messages: Sequence[Message], answer: str) -> Answered:
        """Tokenize a chat and its answer."""
        tokens = self.tokenizer.encode(answer, add_special_tokens=False)
        return Answered(self.prompt(messages), [*tokens, self.ends[0]])

    @torch.inference_mode()
    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        """Implements `Writer`."""
        prompts = [self.prompt(ask.messages) for ask in asks]
        # Batches of one kind and similar length.
        order = sorted(range(len(asks)), key=lambda i: (_kind(asks[i]), len(prompts[i])))
        texts = [""] * len(asks)
        finished = 0
        while order:
            batch = [order.pop(0)]
            while order and _kind(asks[order[0]]) == _kind(asks[batch[0]]):
                if len(prompts[order[0]]) * (len(batch) + 1) > _TOKENS_AT_ONCE:
                    break
                batch.append(order.pop(0))
            written = self._generate([prompts[i] for i in batch], asks[batch[0]])
            for i, tokens in zip(batch, written, strict=True):
                texts[i] = self.tokenizer.decode(tokens, skip_special_tokens=True)
            finished += len(batch)
            done(finished)
        return texts

    @torch.inference_mode()
    def continued(
        self,
        tails: Sequence[list[int]],
        before: ContextKV,
        most: int,
        done: Callable[[int], None],
    ) -> list[str]:
        """Greedy replies to prompts that begin with given KV.

        Args:
            tails: tokens of each prompt behind that KV.
            most: longest reply, tokens.
        """
        texts = [""] * len(tails)
        order = sorted(range(len(tails)), key=lambda i: len(tails[i]))
        size = max(1, _TOKENS_AT_ONCE // (before.tokens + max(map(len, tails), default=1)))
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            tokens, mask = self._padded([tails[i] for i in batch])
            # `generate` takes the tokens of the cache as part of the prompt; their ids are not read.
            front = tokens.new_full((len(batch), before.tokens), self.pad_token)
            output = self.model.generate(
                input_ids=torch.cat([front, tokens], dim=1),
                attention_mask=torch.cat([torch.ones_like(front), mask], dim=1),
                past_key_values=before.cache(len(batch)),
                max_new_tokens=most,
                eos_token_id=self.ends,
                pad_token_id=self.pad_token,
                do_sample=False,
                temperature=None,
                top_p=None,
            )
            for i, row in zip(
                batch, output[:, before.tokens + tokens.shape[1] :].tolist(), strict=True
            ):
                text = self.tokenizer.decode(_until(row, self.ends), skip_special_tokens=True)
                texts[i] = text
            done(min(start + size, len(order)))
        return texts

    def logits(
        self, batch: Sequence[Answered], adapted: Any = None, before: ContextKV | None = None
    ) -> torch.Tensor:
        """Logits at each token of the answers, concatenated over the batch.

        Args:
            adapted: the model with an adapter; None: the base model.
            before: KV before all prompts of the batch.

        Returns:
            (positions, vocabulary)
        """
        longest = max(len(each.answer) for each in batch)
        tokens, mask = self._padded([[*each.prompt, *each.answer] for each in batch])
        wanted = torch.zeros(len(batch), longest, dtype=torch.bool, device=self.device)
        for row, each in enumerate(batch):
            wanted[row, longest - len(each.answer) :] = True
        inputs = {
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
            "use_cache": False,
        }
        if before is not None:
            seen = mask.new_ones(len(batch), before.tokens)
            inputs |= {
                "attention_mask": torch.cat([seen, mask], dim=1),
                "position_ids": inputs["position_ids"] + before.tokens,
                "past_key_values": before.cache(len(batch)),
                "use_cache": True,
            }
        model = self.model if adapted is None else adapted.get_base_model()
        if self._is_plain:
            states = model.base_model(**inputs).last_hidden_state[:, -longest - 1 : -1]
            head: torch.Tensor = model.get_output_embeddings()(states[wanted])
            return head
        whole: torch.Tensor = model(**inputs, logits_to_keep=longest + 1).logits[:, :-1]
        return whole[wanted]

    def _generate(self, prompts: list[list[int]], ask: Ask) -> list[list[int]]:
        tokens, mask = self._padded(prompts)
        torch.manual_seed(ask.seed)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        if ask.temperature > 0:
            sampling = {"do_sample": True, "temperature": ask.temperature, "top_p": 0.95}
        if ask.schema is not None:
            sampling["logits_processor"] = [self._schemas.processor(ask.schema)]
        output = self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=ask.max_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.pad_token,
            **sampling,
        )
        rows: list[list[int]] = output[:, tokens.shape[1] :].tolist()
        return [_until(row, self.ends) for row in rows]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Tokens and mask, both (rows, longest)."""
        longest = max(len(row) for row in rows)
        tokens = [[self.pad_token] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(tokens, device=self.device), torch.tensor(mask, device=self.device)


def compute_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU and on CPUs with AMX or AVX512_BF16, else float32."""
    if device != "cpu":
        return torch.bfloat16
    is_fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else torch.float32


def _kind(ask: Ask) -> tuple[float, int, int, str]:
    """Asks of one kind are generated in one batch."""
    return ask.temperature, ask.seed, ask.max_tokens, json.dumps(ask.schema, sort_keys=True)


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in ends:
            return tokens[:position]
    return tokens


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
