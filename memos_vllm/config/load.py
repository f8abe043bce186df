"""Load the configuration: defaults < YAML file < environment < overrides.

The file is the one named by `--config`, else by `$MEMOS_CONFIG`. An environment variable
`MEMOS__SECTION__KEY=value` sets one key; its value is read as YAML (`[a, b]`, `true`, `null`).
An unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError

CONFIG_VARIABLE = "MEMOS_CONFIG"
OVERRIDE_PREFIX = "MEMOS__"
_DELIMITER = "__"


class _Environment(EnvSettingsSource):
    """Environment variables with YAML values; passes unknown keys on, so that they are rejected."""

    def __call__(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, value in self.env_vars.items():
            if value is None or not name.startswith(self.env_prefix.lower()):
                continue
            *parents, leaf = name[len(self.env_prefix) :].split(_DELIMITER)
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = yaml.safe_load(value)
        return tree


def load_config(
    path: Path | str | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Load and validate the configuration tree.

    Args:
        path: YAML file; None: `$MEMOS_CONFIG`, else defaults.
        overrides: nested mapping that wins over the file and the environment (tests, command line).

    Raises:
        ConfigError: unreadable file, unknown key (the nearest valid one is named), bad value.
    """
    source = path or os.environ.get(CONFIG_VARIABLE)
    file = _read_yaml(Path(source).expanduser()) if source else {}

    class Loaded(Config, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=OVERRIDE_PREFIX, extra="forbid", frozen=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            *_unused: PydanticBaseSettingsSource,
            **_unused_by_name: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            in_file = InitSettingsSource(settings_cls, file)
            return init_settings, _Environment(settings_cls), in_file

    try:
        return Loaded(**(overrides or {}))
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping, not {type(tree).__name__}")
    return tree


def _explain(error: ValidationError, source: object) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(where, _keys(Config), n=1, cutoff=0.0)
            lines.append(f"unknown key `{where}`; did you mean `{nearest[0]}`?")
        else:
            lines.append(f"`{where}`: {problem['msg']}")
    return f"configuration {source or 'from the environment'}: " + "; ".join(lines)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys.extend(_keys(field.annotation, f"{prefix}{name}."))
    return keys
