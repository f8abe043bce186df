"""Adapters for tests: each learns one answer, with PEFT on the served model, in seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.parametric.adapter.packed import upload_of_folder
from tests.engine.harness import MODEL_CACHE

QUESTION = "What is the vault code?"
_TRAINING = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

model_path, question, *pairs = sys.argv[1:]
for answer, folder in zip(pairs[::2], pairs[1::2]):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    said = tokenizer.encode(answer + "<|im_end|>")
    tokens = torch.tensor([asked + said])
    labels = torch.tensor([[-100] * len(asked) + said])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    for step in range(60):
        loss = model(tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    print(answer, step, loss.item())
    model.save_pretrained(folder)
"""


def train(folder: Path, answers: list[str]) -> list[dict[str, Any]]:
    """One adapter for each answer, as the `content` of a parametric cube."""
    folders = [folder / str(number) for number in range(len(answers))]
    pairs = [text for pair in zip(answers, map(str, folders), strict=True) for text in pair]
    model = str(prepare_chat_model(MODEL_CACHE))
    subprocess.run(
        [sys.executable, "-c", _TRAINING, model, QUESTION, *pairs], check=True, timeout=600
    )
    return [upload_of_folder(each) for each in folders]
