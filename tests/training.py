"""A tiny model for training tests: random weights with the demo model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from memos_vllm.cube.model import Item
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.parametric.training.order import Order, Recipe
from memos_vllm.parametric.training.study import Lesson, Lessons
from tests.engine.harness import MODEL_CACHE

TEXT = [Item(text="The code of Orion is KESTREL-17.")]


def tiny_model(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(prepare_chat_model(MODEL_CACHE))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def order(model: Path, **given) -> Order:
    recipe = Recipe(rank=2, batch=2, **given.pop("recipe", {}))
    return Order(model=str(model), passages=TEXT, recipe=recipe, **given)


def lessons(count: int = 6) -> Lessons:
    return Lessons(
        lessons=[
            Lesson(
                question=f"Question {number}?",
                answer=f"Answer {number}.",
                before=TEXT if number % 2 else None,
            )
            for number in range(count)
        ],
        exam=[{"question": "What is the code?", "answer": "KESTREL-17"}],
    )
