"""Policies of tenants: read strictly, and layered.

    configuration  <  file: `default`  <  file: `tenants.<name>`  <  the tenant's own, by the API

A layer names the keys that it sets; a key is replaced as a whole.  `fixed` in the file names keys that the
API may not change.  A file that changes is read again; a file that is wrong changes nothing after the start.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from memos_vllm.config.policies import RetentionRule, TenantPolicy
from memos_vllm.config.redaction import RedactionPolicy
from memos_vllm.errors import BadRequest, ConfigError

log = logging.getLogger(__name__)
Layer = Mapping[str, Any]
_FILE_KEYS = ("default", "tenants", "fixed")
_NESTED: dict[str, type[BaseModel]] = {"redaction": RedactionPolicy, "retention": RetentionRule}


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyFile:
    default: Layer = dataclasses.field(default_factory=dict)
    tenants: Mapping[str, Layer] = dataclasses.field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    """Keys that tenants may not set by the API."""


def read_layer(tree: Any, where: str = "") -> dict[str, Any]:
    """Validate the keys that one layer sets.

    Args:
        where: prefix of keys in messages.

    Raises:
        BadRequest: no object, an unknown key (the nearest valid one is named), a bad value.
    """
    if not isinstance(tree, Mapping):
        raise BadRequest(f"{where or 'a policy'} must be an object", param=where or None)
    try:
        TenantPolicy.model_validate(dict(tree))
    except ValidationError as error:
        raise _explained(error, where) from error
    return {str(key): value for key, value in tree.items()}


def read_file(path: Path) -> PolicyFile:
    """The policies in a YAML file.

    Raises:
        ConfigError: unreadable, no YAML, an unknown key, or a bad value.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the policies {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return _file(tree)
    except BadRequest as error:
        raise ConfigError(f"policies {path}: {error.message}") from error


def layered(base: TenantPolicy, *layers: Layer) -> TenantPolicy:
    """A policy with the keys of each layer in place of those before."""
    tree = base.model_dump()
    for layer in layers:
        tree |= layer
    return TenantPolicy.model_validate(tree)


def check_fixed(file: PolicyFile, in_file: TenantPolicy, layer: Layer) -> list[str]:
    """Keys of a layer that the file has fixed to another value."""
    asked = layered(in_file, layer)
    return sorted(
        key for key in file.fixed & set(layer) if getattr(asked, key) != getattr(in_file, key)
    )


def _file(tree: Any) -> PolicyFile:
    if not isinstance(tree, Mapping):
        raise BadRequest("it must hold a mapping with `default` and `tenants`")
    for key in tree:
        if key not in _FILE_KEYS:
            raise BadRequest(
                f"unknown key `{key}`; did you mean `{_nearest(str(key), _FILE_KEYS)}`?"
            )
    tenants = tree.get("tenants") or {}
    if not isinstance(tenants, Mapping):
        raise BadRequest("`tenants` must be a mapping of names to policies")
    fixed = tree.get("fixed") or []
    if not isinstance(fixed, list):
        raise BadRequest("`fixed` must be a list of keys")
    for key in fixed:
        if key not in TenantPolicy.model_fields:
            nearest = _nearest(str(key), TenantPolicy.model_fields)
            raise BadRequest(f"`fixed` names `{key}`; did you mean `{nearest}`?")
    return PolicyFile(
        read_layer(tree.get("default") or {}, "default"),
        {str(name): read_layer(layer or {}, f"tenants.{name}") for name, layer in tenants.items()},
        frozenset(fixed),
    )


def _explained(error: ValidationError, prefix: str) -> BadRequest:
    problems = error.errors()
    # An unknown key is often why another one is missing.
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    place = [str(part) for part in problem["loc"]]
    where = ".".join([prefix, *place] if prefix else place)
    if problem["type"] != "extra_forbidden":
        return BadRequest(f"`{where}`: {problem['msg']}", param=where)
    model = _NESTED.get(place[0], TenantPolicy) if len(place) > 1 else TenantPolicy
    nearest = ".".join([*where.split(".")[:-1], _nearest(place[-1], model.model_fields)])
    return BadRequest(f"unknown key `{where}`; did you mean `{nearest}`?", param=where)


def _nearest(key: str, valid: Iterable[str]) -> str:
    return difflib.get_close_matches(key, list(valid), n=1, cutoff=0.0)[0]
