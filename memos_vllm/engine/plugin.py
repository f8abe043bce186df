"""Entry point `vllm.endpoint_plugins`: memory in vLLM's API server.

Loaded when `VLLM_PLUGINS` names `memos`, under `memos serve` and under vLLM's own server module.
vLLM calls `attach_router` while it builds the app and `init_state` when the engine is there.
"""

from __future__ import annotations

import atexit
import logging
import os
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from memos_vllm import __version__
from memos_vllm.api import slow_clients
from memos_vllm.api.app import attach
from memos_vllm.api.identity import Authenticator, is_loopback
from memos_vllm.config.load import load_config
from memos_vllm.console.app import attach as attach_console
from memos_vllm.engine import liveness, wiring
from memos_vllm.engine.warm import StartTimes, WarmUp
from memos_vllm.errors import ConfigError
from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)

MOST_CHOICES = "128"
"""`n` of one request at most, as OpenAI's; one request with a thousand holds up all others."""


class MemosPlugin:
    name = "memos"
    required_tasks: tuple[str, ...] | None = None  # authentication guards servers of every kind

    def attach_router(self, app: FastAPI) -> None:
        """Open the vault, put authentication and the Memory API onto the app.

        Raises:
            ConfigError: the configuration is not safe or cannot work; the server does not start.
        """
        if getattr(app.state, "memos_system", None) is not None:
            return
        _log_like_vllm()
        os.environ.setdefault("VLLM_MAX_N_SEQUENCES", MOST_CHOICES)  # vLLM's default is 16,384
        liveness.exit_last(app.state)
        app.state.memos_start = times = StartTimes()
        with times.part("vault"):
            system = MemorySystem(load_config()).open()
        args = app.state.args
        engine_keys = _engine_keys(args)
        _check(system, args, engine_keys)
        http = system.config.http
        slow_clients.install(http.header_seconds, http.header_bytes)
        attach(app, system, Authenticator(system.config.governance, system.keys, engine_keys))
        attach_console(app)
        atexit.register(system.close)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Attach memory to the running engine. Idempotent."""
        system: MemorySystem = state.memos_system
        if engine_client is None or getattr(state, "memos_engine", None) is not None:
            return
        times: StartTimes = state.memos_start
        state.memos_engine = await wiring.attach(
            system, engine_client=engine_client, state=state, args=args, times=times
        )
        state.memos_watch = liveness.watch(
            engine_client, state, system.config.serve.stall_seconds, state.memos_engine.tasks
        )
        warm_up = WarmUp(
            system,
            getattr(state, "openai_serving_chat", None),
            (args.served_model_name or [args.model])[0],
            state.memos_ready,
        )
        if system.config.serve.warm_up:
            state.memos_engine.tasks.spawn(warm_up.run())
        else:
            state.memos_ready.waits_for = None
        log.info(
            "memos_vllm %s: memory is on (%s); it took %s", __version__, system.database.url, times
        )


def create_endpoint_plugin() -> MemosPlugin:
    """Factory that the entry point names."""
    return MemosPlugin()


def _log_like_vllm() -> None:
    """Give our logger the handlers and the level of vLLM's, which sets up its own alone."""
    ours, theirs = logging.getLogger("memos_vllm"), logging.getLogger("vllm")
    if not ours.handlers and theirs.handlers:
        for handler in theirs.handlers:
            ours.addHandler(handler)
        ours.setLevel(theirs.level)
        ours.propagate = False


def _engine_keys(args: Namespace) -> tuple[str, ...]:
    """vLLM's own API keys: `--api-key`, else its environment variable."""
    from vllm import envs

    given = args.api_key or [envs.VLLM_API_KEY]
    return tuple(key for key in given if key)


def _check(system: MemorySystem, args: Namespace, engine_keys: tuple[str, ...]) -> None:
    from vllm import envs

    keys_exist = system.keys.any() or bool(system.config.governance.oidc)
    if engine_keys and keys_exist:
        raise ConfigError(
            "the server has an --api-key of vLLM's and keys of memos_vllm's; a request can carry only one. "
            "Start it without --api-key (every route stays guarded), or use another MEMOS home"
        )
    if not engine_keys and not keys_exist:
        if not is_loopback(args.host or "") and not getattr(args, "uds", None):
            raise ConfigError(
                "no API key exists, so the server may listen on this machine only: add "
                "`--host 127.0.0.1`, or make a key with `memos keys create --tenant NAME`"
            )
        log.warning(
            "no API key exists: this server answers its own machine only, as the one tenant `local`"
        )
    if (getattr(args, "api_server_count", None) or 1) > 1 and getattr(args, "enable_lora", False):
        raise ConfigError(
            "--api-server-count above 1 does not go with --enable-lora: one process cannot know which adapters the "
            "requests of the others compute with"
        )
    if getattr(envs, "VLLM_ENABLE_RESPONSES_API_STORE", False) and keys_exist:
        raise ConfigError(
            "VLLM_ENABLE_RESPONSES_API_STORE keeps replies of all tenants in one place, where any of them "
            "can continue another's: unset it"
        )
    if not system.index.claim():
        raise ConfigError(
            f"the embedded Chroma store {system.config.chroma_path} is in use by another server. One server "
            "process can use it: for several, run `chroma run` and set `chroma.mode: http`"
        )
