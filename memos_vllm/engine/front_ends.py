"""Front ends of vLLM that memory does not stand in front of: they have no keys, no salts and no memory.

The HTTP server in Python loads our endpoint plugin. vLLM can replace it, or start another one beside it,
by a flag or a variable; `memos serve` and the engine's processes refuse to start then, and `memos doctor`
says so. `KNOWN` lists what vLLM has to start a server with, so that a test finds a new one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

VARIABLE = "VLLM_USE_RUST_FRONTEND"
_FLAGS = {
    "grpc": "a gRPC server in place of HTTP",
    "grpc-port": "a gRPC server beside HTTP",
    "omni": "the server of another package",
}

KNOWN = {
    "vllm.entrypoints.cli": {
        "benchmark": "a client",
        "collect_env": "no server",
        "download_kernels": "no server",
        "launch": "starts `launchers.render`",
        "main": "reads the command; refused: `--omni`",
        "openai": "a client",
        "preload": "no server",
        "run_batch": "a file, no server",
        "serve": f"starts `launchers`; refused: `--grpc`, `--grpc-port`, `{VARIABLE}`",
        "snapshot": "no server",
        "types": "no server",
    },
    "vllm.entrypoints.launchers": {
        "api_server": "the HTTP server: loads our plugin",
        "app": "the HTTP server: loads our plugin",
        "cli_args": "no server",
        "dp_supervisor": "starts HTTP servers; its own port has their health alone",
        "grpc_server": "refused: `--grpc`",
        "launcher": "the HTTP server: loads our plugin",
        "render": "the HTTP server without an engine: loads our plugin",
        "run_batch": "a file, no server",
        "utils": "no server",
    },
}
"""Package → module in it → why memory stands in front of it, or that it is refused."""


def found(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Other front ends that a command line, vLLM's configuration file or the environment start."""
    problems = []
    if environment.get(VARIABLE, "0").strip() not in ("", "0"):
        problems.append(f"{VARIABLE} replaces the server")
    flags = _named(arguments)
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            following = value if equals else "".join(arguments[position + 1 : position + 2])
            flags |= _configured(following)
    for flag, what in _FLAGS.items():
        if flag in flags:
            problems.append(f"--{flag} starts {what}")
    return problems


def _named(arguments: Sequence[str]) -> set[str]:
    """The flags of a command line; argparse takes abbreviations."""
    flags = set()
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        name = argument[2:].partition("=")[0].replace("_", "-")
        flags.add("grpc-port" if name.startswith("grpc-") else name)
    return flags


def _configured(path: str) -> set[str]:
    """The flags that a configuration file of vLLM sets; empty: it cannot be read, vLLM says so."""
    try:
        tree = yaml.safe_load(Path(path).read_text()) if path else None
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    if not isinstance(tree, dict):
        return set()
    return {str(key).replace("_", "-") for key, value in tree.items() if value not in (None, False)}


def started() -> list[str]:
    """Other front ends of this process."""
    return found(sys.argv, os.environ)
