"""The adapter, trained: the model without the text comes to say what the model with it says.

The loss at each token of an answer is the KL divergence from the teacher's distribution to the
student's, over the teacher's likeliest tokens and all others as one.  `likelihood` is the baseline: the
answer's own tokens, nothing of the teacher's doubts.

Source: context distillation (arXiv 2112.00861, 2209.15189); the loss on top-k logits as in Cartridges
(arXiv 2506.06266).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from memos_vllm.parametric.adapter.packed import Adapter, load_folder
from memos_vllm.parametric.training.order import Recipe, write_json
from memos_vllm.parametric.training.targets import Targets
from memos_vllm.parametric.training.weights import Answered, Weights

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_CHECKPOINT_SECONDS = 30.0
_WARMUP = 0.1
_CLIP = 1.0


class Student:
    def __init__(
        self,
        weights: Weights,
        recipe: Recipe,
        lessons: Sequence[Answered],
        start: Path | None = None,
    ) -> None:
        """
        Args:
            lessons: as the student sees them, without the text.
            start: an adapter in PEFT's form that it begins as, with its rank; None: one that does nothing.
        """
        from accelerate import Accelerator
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(recipe.seed)
        self._weights, self._recipe, self._lessons = weights, recipe, lessons
        given = load_folder(start) if start is not None else None
        config = LoraConfig(
            r=given.config.r if given else recipe.rank,
            lora_alpha=int(given.config.lora_alpha) if given else recipe.alpha or 2 * recipe.rank,
            target_modules=list(given.config.target_modules)
            if given
            else _linear_layers(weights.model),
            task_type="CAUSAL_LM",
        )
        peft: Any = get_peft_model(weights.model, config, autocast_adapter_dtype=False)
        if given is not None:
            _begin_as(peft, given)
        self._accelerator: Any = Accelerator(cpu=weights.device == "cpu")
        self._trained = [p for p in peft.parameters() if p.requires_grad]
        # Computed with in the base model's type, changed in float32: bfloat16 rounds small steps away.
        self._exact = [p.detach().float().clone() for p in self._trained]
        optimizer = torch.optim.AdamW(self._exact, lr=recipe.learning_rate, weight_decay=0.0)
        self.model: Any
        self.model, self._optimizer = self._accelerator.prepare(peft, optimizer)
        self.steps_all = recipe.epochs * -(-len(lessons) // recipe.batch)
        self.step, self.loss = 0, float("nan")

    def train(
        self, targets: Targets, checkpoint: Path, done: Callable[[int, int, float], None]
    ) -> None:
        """From the checkpoint on, if there is one.

        Args:
            done: told (steps, all steps, loss) after each step; may raise to stop, and a checkpoint is
                written before that is passed on.
        """
        self._resume(checkpoint)
        self.model.train()
        saved = time.monotonic()
        try:
            while self.step < self.steps_all:
                self.loss = self._take(self._batch(self.step), targets)
                self.step += 1
                done(self.step, self.steps_all, self.loss)
                if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save(checkpoint)
                    saved = time.monotonic()
        finally:
            self._save(checkpoint)
        self.model.eval()

    def save(self, folder: Path) -> None:
        """In PEFT's form."""
        self.model.save_pretrained(folder)

    def base(self) -> Any:
        """A context in which the adapter is off."""
        return self.model.disable_adapter()

    def _batch(self, step: int) -> list[int]:
        """Which lessons, from the step's number alone, so that a resumed run takes the same."""
        in_epoch = -(-len(self._lessons) // self._recipe.batch)
        epoch, place = divmod(step, in_epoch)
        order = list(range(len(self._lessons)))
        rng = random.Random(f"{self._recipe.seed} {epoch}")
        rng.shuffle(order)
        order.sort(key=lambda i: len(self._lessons[i].prompt) + len(self._lessons[i].answer))
        size = self._recipe.batch
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(batches)  # of one length each: little of them is padding
        return batches[place]

    def _take(self, batch: list[int], targets: Targets) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * _schedule(self.step, self.steps_all)
        logits = self._weights.logits([self._lessons[i] for i in batch], self.model)
        said = logits.float().log_softmax(-1)  # (places, vocabulary)
        if self._recipe.method == "likelihood":
            tokens = torch.tensor([token for i in batch for token in self._lessons[i].answer])
            loss = -said.gather(-1, tokens.to(said.device)[:, None]).mean()
        else:
            taught = [targets.of(i) for i in batch]
            loss = divergence(
                said,
                torch.cat([tokens for tokens, _ in taught]).to(said.device),
                torch.cat([logprobs for _, logprobs in taught]).to(said.device),
            )
        self._accelerator.backward(loss)
        for exact, parameter in zip(self._exact, self._trained, strict=True):
            exact.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._exact, _CLIP)
        self._optimizer.step()
        self._take_over()
        return float(loss.detach())

    def _take_over(self) -> None:
        with torch.no_grad():
            for exact, parameter in zip(self._exact, self._trained, strict=True):
                parameter.copy_(exact)

    def _save(self, folder: Path) -> None:
        """The adapter's numbers and the optimizer's, whole or not at all."""
        tensors: dict[str, torch.Tensor] = {}
        state = self._optimizer.state
        for number, parameter in enumerate(self._exact):
            tensors[f"{number}"] = parameter
            for name, value in state.get(parameter, {}).items():
                tensors[f"{number}.{name}"] = value
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        save_file(
            {name: each.contiguous().cpu() for name, each in tensors.items()}, making / "state"
        )
        write_json(making / "step.json", self.step)
        gone = folder.with_suffix(".gone")
        shutil.rmtree(gone, ignore_errors=True)
        if folder.exists():
            os.replace(folder, gone)  # noqa: PTH105  # Path.replace is the same call
        os.replace(making, folder)  # noqa: PTH105
        shutil.rmtree(gone, ignore_errors=True)

    def _resume(self, folder: Path) -> None:
        if not folder.exists() and (gone := folder.with_suffix(".gone")).exists():
            folder = gone  # it was ended between the two renames
        if not folder.exists():
            return
        tensors = load_file(folder / "state")
        for number, parameter in enumerate(self._exact):
            parameter.copy_(tensors.pop(f"{number}"))
            prefix = f"{number}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                self._optimizer.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device)
                    for name, value in state.items()
                }
        self._take_over()
        self.step = json.loads((folder / "step.json").read_bytes())


def divergence(said: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Mean KL from the teacher to the student, in nats.

    Args:
        said: (places, vocabulary) log-probabilities of the student.
        tokens, logprobs: (places, top_k) of the teacher's likeliest tokens.
    """
    ours = said.gather(-1, tokens)
    rest, ours_rest = _remainder(logprobs), _remainder(ours)
    listed = (logprobs.exp() * (logprobs - ours)).sum(-1)
    others = rest * (rest.log() - ours_rest.log())
    return (listed + others).mean()


def _remainder(logprobs: torch.Tensor) -> torch.Tensor:
    """(places,) probability of all tokens that are not listed."""
    return (1 - logprobs.exp().sum(-1)).clamp(min=1e-6)


def _begin_as(peft: Any, given: Adapter) -> None:
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(given.tensors[name.replace(".default.", ".")])


def _schedule(step: int, steps: int) -> float:
    """Warm up, then down to nothing in a straight line."""
    warm = max(1, round(steps * _WARMUP))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def _linear_layers(model: Any) -> list[str]:
    """Names of the layers that get an adapter: those of the usual names that the model has."""
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return [name for name in TARGET_MODULES if name in found] or sorted(found - {"lm_head"})
