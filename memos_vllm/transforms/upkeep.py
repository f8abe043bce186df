"""Around the jobs: which weights they train on, and what is left of those that have ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import ConfigError

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_DAY_US = 86_400_000_000


def base_model(config: Config, given: str | None = None) -> tuple[str, str | None]:
    """Weights to train on where no engine runs in this process. Raises ConfigError."""
    model = given or config.training.model or config.serve.model
    if model is None:
        raise ConfigError("no base model is named: give --model, or set `training.model`")
    return model, None


def sweep(system: MemorySystem) -> None:
    """Remove folders of jobs that have ended or are gone with what they read, and rows of old ones."""
    kept_us = round(system.config.training.jobs_kept_days * _DAY_US)
    system.transforms.forget_ended(now_us() - kept_us)
    root: Path = system.config.training_path
    wanted = system.transforms.ids()
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in wanted:
            shutil.rmtree(path, ignore_errors=True)
