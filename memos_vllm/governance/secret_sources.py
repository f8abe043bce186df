"""Sources of the server's secrets: a file, an environment variable, a command, or a key service.

    file:PATH                 one secret a line
    env:NAME                  secrets, separated by white space
    exec:COMMAND              the same on its stdout; without a shell, such as a cloud's own program
    https://HOST/PATH#FIELD   GET; a JSON answer in the form of HashiCorp Vault (`data.data.FIELD` or
                              `data.FIELD`), or an object with FIELD, or plain text; default FIELD: `keys`

A secret has 64 hex digits or more.  The newest stands last: to rotate, add one; the older ones serve what
they have signed or named until they are removed.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx

from memos_vllm.errors import ConfigError

_TIMEOUT_SECONDS = 15.0
_LEAST_BYTES, _MOST_CHARACTERS = 32, 1 << 16


def read_secrets(source: str, token_source: str | None = None) -> tuple[bytes, ...]:
    """Secrets of a source, the newest last.

    Args:
        token_source: of the bearer token for an `https:` source.

    Raises:
        ConfigError: it cannot be read, or has no secret; the message holds none.
    """
    text = read_text(source, token_source)
    try:
        found = tuple(bytes.fromhex(word) for word in text.split())
    except ValueError:
        found = ()
    if not found or min(map(len, found)) < _LEAST_BYTES:
        raise ConfigError(
            f"{_shown(source)} has no secrets: each has {2 * _LEAST_BYTES} hex digits or more, one a line"
        )
    return found


def read_text(source: str, token_source: str | None = None) -> str:
    """What a source holds. Raises ConfigError."""
    scheme, _, rest = source.partition(":")
    match scheme:
        case "file":
            return _file(Path(rest).expanduser())
        case "env":
            return _environment(rest)
        case "exec":
            return _command(rest)
        case "https" | "http":
            token = read_text(token_source).strip() if token_source else None
            return _answer(source, token)
    raise ConfigError("a source of secrets begins with file:, env:, exec: or https:")


def _file(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the secrets in {path}: {_reason(error)}") from error


def _environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"the environment variable {name}, a source of secrets, is not set")
    return value


def _command(command: str) -> str:
    words = shlex.split(command)
    if not words:
        raise ConfigError("exec: names no command")
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise ConfigError(f"exec:{words[0]} gives no secrets: {_reason(error)}") from error
    if done.returncode:
        raise ConfigError(f"exec:{words[0]} gives no secrets: it ends with {done.returncode}")
    return done.stdout


def _answer(source: str, token: str | None) -> str:
    url, _, field = source.partition("#")
    # HashiCorp Vault reads the first, others the second.
    headers = {"X-Vault-Token": token, "Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise ConfigError(f"{_shown(source)} gives no secrets: {type(error).__name__}") from error
    if not answer.is_success or len(answer.text) > _MOST_CHARACTERS:
        raise ConfigError(f"{_shown(source)} gives no secrets: status {answer.status_code}")
    try:
        return _field(json.loads(answer.text), field or "keys")
    except (ValueError, RecursionError):
        return answer.text


def _field(tree: Any, name: str) -> str:
    """A field of Vault's answer (KV 2 or 1), or of the object itself; empty: it has none."""
    for _ in range(3):
        if not isinstance(tree, dict):
            return ""
        if name in tree:
            value = tree[name]
            return " ".join(map(str, value)) if isinstance(value, list) else str(value)
        tree = tree.get("data")
    return ""


def _shown(source: str) -> str:
    """A source without what may be secret in it."""
    return source.partition("#")[0].partition("?")[0].partition(" ")[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
