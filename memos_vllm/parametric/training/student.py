"""Train the adapter: the student, without the text, learns the distribution of the teacher with it.

The loss at each token of an answer is the KL divergence from the teacher's distribution to the
student's, over the teacher's top-k tokens and the rest as one.  `likelihood` is the baseline: cross
entropy of the answer's tokens.

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
    """The base model with the trained adapter, and its optimizer."""

    def __init__(
        self,
        weights: Weights,
        recipe: Recipe,
        lessons: Sequence[Answered],
        start: Path | None = None,
    ) -> None:
        """Add an adapter to the base model.

        Args:
            lessons: the student's lessons, without the text.
            start: folder of an adapter in PEFT's format to start from, with its rank; None: an adapter
                without effect.
        """
        from accelerate import Accelerator
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(recipe.seed)
        self._weights, self._recipe, self._lessons = weights, recipe, lessons
        initial = load_folder(start) if start is not None else None
        config = LoraConfig(
            r=initial.config.r if initial else recipe.rank,
            lora_alpha=int(initial.config.lora_alpha)
            if initial
            else recipe.alpha or 2 * recipe.rank,
            target_modules=list(initial.config.target_modules)
            if initial
            else _linear_layers(weights.model),
            task_type="CAUSAL_LM",
        )
        peft: Any = get_peft_model(weights.model, config, autocast_adapter_dtype=False)
        if initial is not None:
            _copy_weights(peft, initial)
        self._accelerator: Any = Accelerator(cpu=weights.device == "cpu")
        self._trained = [p for p in peft.parameters() if p.requires_grad]
        # Master weights in float32: bfloat16 would round small steps to zero.
        self._exact = [p.detach().float().clone() for p in self._trained]
        optimizer = torch.optim.AdamW(self._exact, lr=recipe.learning_rate, weight_decay=0.0)
        self.model: Any
        self.model, self._optimizer = self._accelerator.prepare(peft, optimizer)
        self.steps_all = recipe.epochs * -(-len(lessons) // recipe.batch)
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
        self.model.train()
        saved = time.monotonic()
        try:
            while self.step < self.steps_all:
                self.loss = self._train_step(self._batch(self.step), targets)
                self.step += 1
                done(self.step, self.steps_all, self.loss)
                if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                    self._save(checkpoint)
                    saved = time.monotonic()
        finally:
            self._save(checkpoint)
        self.model.eval()

    def save(self, folder: Path) -> None:
        """Save the adapter in PEFT's format."""
        self.model.save_pretrained(folder)

    def base(self) -> Any:
        """A context manager that disables the adapter."""
        return self.model.disable_adapter()

    def _batch(self, step: int) -> list[int]:
        """Lessons of a step, from its number alone, so that a resumed run takes the same."""
        in_epoch = -(-len(self._lessons) // self._recipe.batch)
        epoch, index = divmod(step, in_epoch)
        order = list(range(len(self._lessons)))
        rng = random.Random(f"{self._recipe.seed} {epoch}")
        rng.shuffle(order)
        order.sort(key=lambda i: len(self._lessons[i].prompt) + len(self._lessons[i].answer))
        size = self._recipe.batch
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(batches)  # each has lessons of similar length: little padding
        return batches[index]

    def _train_step(self, batch: list[int], targets: Targets) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * _schedule(self.step, self.steps_all)
        logits = self._weights.logits([self._lessons[i] for i in batch], self.model)
        logprobs = logits.float().log_softmax(-1)  # (positions, vocabulary)
        if self._recipe.method == "likelihood":
            tokens = torch.tensor([token for i in batch for token in self._lessons[i].answer])
            loss = -logprobs.gather(-1, tokens.to(logprobs.device)[:, None]).mean()
        else:
            teacher = [targets.of(i) for i in batch]
            loss = divergence(
                logprobs,
                torch.cat([tokens for tokens, _ in teacher]).to(logprobs.device),
                torch.cat([likeliest for _, likeliest in teacher]).to(logprobs.device),
            )
        self._accelerator.backward(loss)
        for exact, parameter in zip(self._exact, self._trained, strict=True):
            exact.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._exact, _CLIP)
        self._optimizer.step()
        self._copy_to_model()
        return float(loss.detach())

    def _copy_to_model(self) -> None:
        """Copy the master weights to the model, in its type."""
        with torch.no_grad():
            for exact, parameter in zip(self._exact, self._trained, strict=True):
                parameter.copy_(exact)

    def _save(self, folder: Path) -> None:
        """Write a checkpoint of the adapter and the optimizer, atomically."""
        tensors: dict[str, torch.Tensor] = {}
        state = self._optimizer.state
        for number, parameter in enumerate(self._exact):
            tensors[f"{number}"] = parameter
            for name, value in state.get(parameter, {}).items():
                tensors[f"{number}.{name}"] = value
        partial = folder.with_suffix(".making")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {name: each.contiguous().cpu() for name, each in tensors.items()}, partial / "state"
        )
        write_json(partial / "step.json", self.step)
        previous = folder.with_suffix(".gone")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.replace(folder, previous)  # noqa: PTH105  # Path.replace is the same call
        os.replace(partial, folder)  # noqa: PTH105
        shutil.rmtree(previous, ignore_errors=True)

    def _resume(self, folder: Path) -> None:
        if not folder.exists() and (previous := folder.with_suffix(".gone")).exists():
            folder = previous  # the process ended between the two renames of `_save`
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
        self._copy_to_model()
        self.step = json.loads((folder / "step.json").read_bytes())


def divergence(student: torch.Tensor, tokens: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Mean KL from the teacher to the student, in nats.

    Args:
        student: (positions, vocabulary) log-probabilities of the student.
        tokens: (positions, top_k) the teacher's most likely tokens.
        logprobs: (positions, top_k) their log-probabilities under the teacher.
    """
    listed = student.gather(-1, tokens)
    rest, student_rest = _remainder(logprobs), _remainder(listed)
    kl_listed = (logprobs.exp() * (logprobs - listed)).sum(-1)
    kl_rest = rest * (rest.log() - student_rest.log())
    return (kl_listed + kl_rest).mean()


def _remainder(logprobs: torch.Tensor) -> torch.Tensor:
    """(positions,) probability of all tokens outside the top-k."""
    return (1 - logprobs.exp().sum(-1)).clamp(min=1e-6)


def _copy_weights(peft: Any, adapter: Adapter) -> None:
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(adapter.tensors[name.replace(".default.", ".")])


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warm-up, then linear decay to 0."""
    warm = max(1, round(steps * _WARMUP))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers that get an adapter: the usual ones, else all but `lm_head`."""
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return [name for name in TARGET_MODULES if name in found] or sorted(found - {"lm_head"})
