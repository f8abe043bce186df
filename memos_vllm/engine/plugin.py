"""Entry point `vllm.endpoint_plugins`: memory in vLLM's API server.

Loaded when `VLLM_PLUGINS` names `memos`, under `memos serve` and under vLLM's own server module.
vLLM calls `attach_router` while it builds the app and `init_state` when the engine is there.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from memos_vllm import __version__
from memos_vllm.api.app import attach
from memos_vllm.api.identity import Authenticator, is_loopback
from memos_vllm.config.load import load_config
from memos_vllm.engine import gateway
from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.activator import EngineActivator
from memos_vllm.engine.chat.handler import ChatMemory
from memos_vllm.engine.chat.kv_export import EngineKV
from memos_vllm.engine.chat.writer import EngineWriter
from memos_vllm.engine.kv.fingerprint import weights_digest
from memos_vllm.engine.lora.attached import EngineAdapters, EngineModel
from memos_vllm.engine.wiring import attach_kv, has_connector
from memos_vllm.errors import ConfigError, EmbedderUnavailable
from memos_vllm.learning.extract import Extractor
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.pipeline import Pipeline
from memos_vllm.plaintext.reader.rewrite import Rewriter
from memos_vllm.system import MemorySystem
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.worker import TransformWorker
from memos_vllm.writer.base import Writer
from memos_vllm.writer.openai import OpenAIWriter

log = logging.getLogger(__name__)


class MemosPlugin:
    name = "memos"
    required_tasks: tuple[str, ...] | None = None  # the door guards servers of every kind

    def attach_router(self, app: FastAPI) -> None:
        """Open the vault, put the door and the Memory API onto the app.

        Raises:
            ConfigError: a configuration that is not safe or cannot work; the server does not start.
        """
        if getattr(app.state, "memos_system", None) is not None:
            return
        _log_like_vllm()
        system = MemorySystem(load_config()).open()
        args = app.state.args
        engine_keys = _engine_keys(args)
        _check(system, args, engine_keys)
        attach(app, system, Authenticator(system.config.governance, system.keys, engine_keys))
        atexit.register(system.close)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Put memory in front of the chat handler and salt the way into the engine. Idempotent."""
        system: MemorySystem = state.memos_system
        if engine_client is None or getattr(state, "memos_pipeline", None) is not None:
            return
        governance = system.config.governance
        secret = await asyncio.to_thread(system.database.secret, "cache_salt")
        salter = gateway.Salter(
            secret, governance.isolation, governance.trust_client_kv_transfer_params
        )
        gateway.install(engine_client, salter)
        vllm_config = engine_client.vllm_config
        kept = system.config.kv_path / "weights"
        digest = await asyncio.to_thread(weights_digest, vllm_config.model_config, kept)
        system.served = EngineModel(vllm_config, digest or vllm_config.model_config.model)
        adapters = await _adapters(system, engine_client, state)
        routes.install(state, adapters)
        rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
        state.memos_pipeline = Pipeline(system, rememberer)
        state.memos_pipeline.adapters = adapters
        serving = getattr(state, "openai_serving_chat", None)
        if serving is not None:
            model = (args.served_model_name or [args.model])[0]
            memory = ChatMemory(serving, state.memos_pipeline, model)
            memory.adapters = adapters
            memory.install()
            if has_connector(engine_client.vllm_config):
                state.memos_activator = await asyncio.to_thread(
                    attach_kv,
                    memory,
                    state.memos_pipeline,
                    system,
                    engine_client,
                    salter.in_flight,
                    asyncio.get_running_loop(),
                )
                atexit.register(system.segments.empty_memory)
            else:
                log.info("activation memory is off: the engine runs without its KV connector")
            loop = asyncio.get_running_loop()
            writer = EngineWriter(engine_client, memory.inner_tokenizer, salter.in_flight, loop)
            rememberer.extractor = _extractor(system, writer, memory)
            if (reader := system.config.reader).rewrite:
                state.memos_pipeline.rewriter = Rewriter(
                    writer.now, memory.tokenizer.escape, reader.rewrite_seconds
                )
        await asyncio.to_thread(_start, system, rememberer)
        if serving is not None and system.config.training.in_server:
            activator = getattr(state, "memos_activator", None)
            _do_jobs(system, memory, engine_client, writer, activator)
        log.info("memos_vllm %s: memory is on (%s)", __version__, system.database.url)


def create_endpoint_plugin() -> MemosPlugin:
    """The factory that the entry point names."""
    return MemosPlugin()


async def _adapters(system: MemorySystem, engine_client: Any, state: Any) -> EngineAdapters | None:
    """None: the engine attaches none."""
    models = getattr(state, "openai_serving_models", None)
    if models is None or engine_client.vllm_config.lora_config is None:
        return None
    adapters = EngineAdapters(engine_client, models, system, asyncio.get_running_loop())
    adapters.install_listing()
    adapters.install_naming()
    await asyncio.to_thread(adapters.sweep)
    system.adapters_changed = adapters.sweep
    return adapters


def _start(system: MemorySystem, rememberer: Rememberer) -> None:
    try:
        system.embedder.warm()
    except EmbedderUnavailable as error:
        log.warning("%s; memory is searched by words alone until it can be", error)
    rememberer.start()
    atexit.register(rememberer.stop)
    system.indexer.start()


def _extractor(system: MemorySystem, own: EngineWriter, memory: ChatMemory) -> Extractor | None:
    """What reads turns in the background; None: rules alone do.

    Raises ConfigError: a model is to read at an address, and is not named.
    """
    reader = system.config.reader
    if reader.mode == "fast":
        return None
    writer: Writer = own
    if reader.url is not None:
        if reader.model is None:
            raise ConfigError("`reader.url` is set: name the model there, `reader.model`")
        writer = OpenAIWriter(reader.url, reader.model, reader.api_key, reader.timeout_seconds)
    return Extractor(system, writer, memory.tokenizer.escape)


def _do_jobs(
    system: MemorySystem,
    memory: ChatMemory,
    engine_client: Any,
    writer: EngineWriter,
    activator: EngineActivator | None,
) -> None:
    """Jobs that make memory from memory, one after the other, while nobody waits for the engine."""
    model = engine_client.vllm_config.model_config
    loop = asyncio.get_running_loop()

    runner = JobRunner(
        system,
        (model.model, model.revision),
        (writer, memory.tokenizer.escape),
        kept=EngineKV(activator, loop) if activator is not None else None,
        threads=max(1, (os.cpu_count() or 2) // 2),
    )
    worker = TransformWorker(runner)
    worker.start()
    atexit.register(worker.stop)


def _log_like_vllm() -> None:
    """Our log lines in vLLM's form and at its level; it sets up its own logger alone."""
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

    keys_exist = system.keys.any()
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
