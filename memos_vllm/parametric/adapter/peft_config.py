"""Strict parser of PEFT's `adapter_config.json`: rejects settings that the engine does not support.

PEFT's file has some fifty fields, and every release adds some.  `AdapterConfig` has those that affect
the computation; `_IGNORED` those that only describe the origin; any other field must be unset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from memos_vllm.errors import Unprocessable

_MODULE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
_IGNORED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "init_lora_weights",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)
"""Fields about the training; they do not affect the output of a trained adapter."""
_BASE_CHANGING = ("pissa", "olora", "loftq", "corda")
"""Initializations that change the base model's weights."""


class AdapterConfig(BaseModel):
    """The fields that define the computation: y = W·x + scaling · B·A·x."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: int = Field(ge=1, le=1024, description="rank")
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=_MODULE, max_length=200)], ...],
        Field(min_length=1, max_length=512),
    ]
    bias: Literal["none"] = "none"
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def to_peft(self) -> dict[str, Any]:
        """The contents of `adapter_config.json`, validated fields only."""
        return {**self.model_dump(mode="json"), "task_type": "CAUSAL_LM", "inference_mode": True}


def read_config(raw: Any) -> AdapterConfig:
    """Parse PEFT's configuration.

    Raises:
        Unprocessable: an invalid or unsupported setting; the message names the field.
    """
    if not isinstance(raw, Mapping):
        raise Unprocessable("`adapter_config` must be an object: PEFT's adapter_config.json")
    known = {key: raw[key] for key in AdapterConfig.model_fields if key in raw}
    for key in sorted(set(raw) - set(known) - _IGNORED):
        if raw[key]:
            raise Unprocessable(
                f"`adapter_config.{key}` is set, which this server does not support"
            )
    initialization = str(raw.get("init_lora_weights", True)).lower()
    if initialization.startswith(_BASE_CHANGING):
        raise Unprocessable(
            f"`adapter_config.init_lora_weights` is {initialization!r}, which changes the base model: "
            "convert the adapter with PEFT's `path_initial_model_for_weight_conversion`"
        )
    if isinstance(known.get("target_modules"), list):
        known["target_modules"] = tuple(sorted(map(str, known["target_modules"])))
    try:
        return AdapterConfig.model_validate(known)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["adapter_config", *map(str, problem["loc"])])
        raise Unprocessable(f"`{where}`: {problem['msg']}") from error
