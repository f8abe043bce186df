"""Distillation of a compact: its keys and values are trained, the model is not.

The model with the compact in front learns the distribution of the model with the text (`parametric.training`
has the lessons and the loss).  The start is a matched compact (`compacts.match`).

Source: Cartridges (arXiv 2506.06266), whose start is the KV of the text's first tokens.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from memos_vllm.parametric.training.order import write_json
from memos_vllm.parametric.training.student import divergence
from memos_vllm.parametric.training.targets import Targets
from memos_vllm.parametric.training.weights import Answered, ContextKV, Weights

_CHECKPOINT_SECONDS = 30.0
_BETAS = (0.9, 0.999)
_CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class Training:
    steps: int
    learning_rate: float
    batch: int
    seed: int = 0


class KVStudent:
    """Keys and values behind the KV of a chat's head, and their optimizer."""

    def __init__(
        self,
        weights: Weights,
        head: torch.Tensor,
        start: torch.Tensor,
        lessons: Sequence[Answered],
        training: Training,
    ) -> None:
        """
        Args:
            head: (layers, 2, tokens, kv_heads, head_dim) of the tokens in front of the compact.
            start: (layers, 2, places, kv_heads, head_dim).
            lessons: the student's: the tokens behind the compact.
        """
        for parameter in weights.model.parameters():
            parameter.requires_grad_(False)
        self._weights, self._head, self._lessons = weights, head, lessons
        self._training = training
        self.kv = start.detach().float().clone().requires_grad_(True)
        self._optimizer = torch.optim.Adam([self.kv], lr=training.learning_rate, betas=_BETAS)
        self.step, self.loss = 0, float("nan")

    def train(
        self, targets: Targets, checkpoint: Path, done: Callable[[int, int, float], None]
    ) -> None:
        """Train, from the checkpoint if there is one.

        Args:
            done: called with (steps, all steps, loss) after each step; may raise to stop, after which
                a checkpoint is written.
        """
        self._resume(checkpoint)
        saved = time.monotonic()
        try:
            while self.step < self._training.steps:
                self.loss = self._train_step(targets)
                self.step += 1
                done(self.step, self._training.steps, self.loss)
                if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save(checkpoint)
                    saved = time.monotonic()
        finally:
            self._save(checkpoint)

    def context(self) -> ContextKV:
        """The head and the compact, as the model reads them."""
        return ContextKV(torch.cat([self._head, self.kv.to(self._head.dtype)], dim=2))

    def _train_step(self, targets: Targets) -> float:
        left = 1 - self.step / max(1, self._training.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.learning_rate * left
        batch = self._batch()
        logits = self._weights.logits([self._lessons[i] for i in batch], before=self.context())
        teacher = [targets.of(i) for i in batch]
        device = logits.device
        loss = divergence(
            logits.float().log_softmax(-1),
            torch.cat([tokens for tokens, _ in teacher]).to(device),
            torch.cat([likeliest for _, likeliest in teacher]).to(device),
        )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        torch.nn.utils.clip_grad_norm_([self.kv], _CLIP)
        self._optimizer.step()
        return float(loss.detach())

    def _batch(self) -> list[int]:
        """Lessons of a step, from its number alone, so that a resumed run takes the same."""
        rng = random.Random(f"{self._training.seed} {self.step}")
        count = min(self._training.batch, len(self._lessons))
        return rng.sample(range(len(self._lessons)), count)

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = self._optimizer.state.get(self.kv, {})
        tensors = {"kv": self.kv.detach(), **{k: v for k, v in state.items() if torch.is_tensor(v)}}
        partial = folder / ".state.making"
        save_file({name: each.contiguous().cpu() for name, each in tensors.items()}, partial)
        os.replace(partial, folder / f"state-{self.step}")  # noqa: PTH105  # Path.replace is the same call
        write_json(folder / "step.json", self.step)
        for old in folder.glob("state-*"):
            if old.name != f"state-{self.step}":
                old.unlink()

    def _resume(self, folder: Path) -> None:
        try:
            step = int(json.loads((folder / "step.json").read_bytes()))
            tensors = load_file(folder / f"state-{step}")
        except (OSError, ValueError):
            return
        with torch.no_grad():
            self.kv.copy_(tensors.pop("kv"))
        if tensors:
            self._optimizer.state[self.kv] = {
                name: value if name == "step" else value.to(self.kv.device)
                for name, value in tensors.items()
            }
        self.step = step
