"""Wiring: every part that memory needs of a running engine, built in order and attached to it."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import json
import logging
import os
from typing import Any

from memos_vllm.activation.backoff import ContextIndex
from memos_vllm.activation.quota import KVQuota
from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.config.secrets import CACHE_SALT
from memos_vllm.engine import gateway, reading
from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.activator import EngineActivator
from memos_vllm.engine.chat.door import Parts
from memos_vllm.engine.chat.kv_export import EngineKV
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.chat.served import ServedPrompts
from memos_vllm.engine.chat.writer import EngineWriter
from memos_vllm.engine.doors import install as doors
from memos_vllm.engine.kv.fingerprint import namer, weights_digest
from memos_vllm.engine.kv.rope import rotation_problem
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.compact import CompactPlanner, Vocabulary, compact_problem
from memos_vllm.engine.kv_plan.compact_store import CompactStore
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.orders import KVOrders
from memos_vllm.engine.kv_plan.planner import ChainPlanner
from memos_vllm.engine.kv_plan.prefetch import Prefetcher
from memos_vllm.engine.kv_plan.probe import Probe
from memos_vllm.engine.kv_plan.promoter import Promoter
from memos_vllm.engine.kv_plan.rekey import Rekeyer
from memos_vllm.engine.lora.attached import EngineAdapters, EngineModel
from memos_vllm.engine.warm import StartTimes
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.governance.scope import Scopes
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.parametric.attached import AttachedEngine
from memos_vllm.pipeline import Pipeline
from memos_vllm.system import MemorySystem
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.worker import TransformWorker
from memos_vllm.vault.jobs import ERASE
from memos_vllm.vault.responses import ResponseStore
from memos_vllm.vault.served_model import ServedModels

log = logging.getLogger(__name__)
CONNECTOR = "MemosConnector"


@dataclasses.dataclass(frozen=True)
class MemoryEngine:
    """The memory system attached to one engine, as the server holds it (`app.state.memos_engine`)."""

    pipeline: Pipeline | None
    """None: the server has no chat handler."""
    adapters: EngineAdapters | None
    """None: the engine attaches no adapters."""
    activator: EngineActivator | None
    """None: activation memory is off."""
    tasks: BackgroundTasks


@dataclasses.dataclass(frozen=True)
class _ActivationMemory:
    orders: KVOrders
    activator: EngineActivator
    compacts: CompactStore


@dataclasses.dataclass(frozen=True)
class _Host:
    """The running engine and what every part takes from it."""

    client: Any
    """vLLM's engine client."""
    system: MemorySystem
    loop: asyncio.AbstractEventLoop
    in_flight: gateway.InFlight
    tasks: BackgroundTasks
    times: StartTimes

    @property
    def vllm_config(self) -> Any:
        return self.client.vllm_config


async def attach(
    system: MemorySystem, engine_client: Any, state: Any, args: Any, times: StartTimes
) -> MemoryEngine:
    """Build every part in the order of their needs and put them in front of vLLM's handlers.

        gateway → served model → adapters → renderer, writer → rememberer → pipeline
                → KV orders → doors: vLLM's handlers → workers

    Args:
        state: vLLM's `app.state`, with its handlers.
        args: vLLM's command line.
        times: takes what each part takes.

    Raises:
        ConfigError: the configuration does not fit the engine.
    """
    salter = await _salter(system)
    gateway.install(engine_client, salter, state.memos_queue)
    scheduling = engine_client.vllm_config.scheduler_config
    state.memos_queue.attach(
        max_num_seqs=scheduling.max_num_seqs,
        on_cpu=engine_client.vllm_config.device_config.device_type == "cpu",
        has_priorities=scheduling.policy == "priority",
    )
    host = _Host(
        client=engine_client,
        system=system,
        loop=asyncio.get_running_loop(),
        in_flight=salter.in_flight,
        tasks=BackgroundTasks(),
        times=times,
    )
    with times.part("weights"):
        served = await _served_model(host)
    await asyncio.to_thread(_join, system, served)
    adapters = await _adapters(host, served, state)
    serving = getattr(state, "openai_serving_chat", None)
    if serving is not None:
        renderer = PromptRenderer(serving, (args.served_model_name or [args.model])[0])
        return await _attach_chat(
            host, state=state, renderer=renderer, served=served, adapters=adapters
        )
    routes.install(state, adapters)
    system.attach_engine(AttachedEngine(served))
    await asyncio.to_thread(_start, host, Rememberer(system, _queue(system)))
    return MemoryEngine(None, adapters=adapters, activator=None, tasks=host.tasks)


async def _attach_chat(
    host: _Host,
    state: Any,
    renderer: PromptRenderer,
    served: EngineModel,
    adapters: EngineAdapters | None,
) -> MemoryEngine:
    """Everything from the pipeline on, for a server with vLLM's chat handler."""
    system = host.system
    prompts = _served_prompts(host)
    writer = EngineWriter(
        host.client,
        tokenizer=renderer.inner_tokenizer,
        in_flight=host.in_flight,
        loop=host.loop,
        served=prompts,
    )
    examiner = reading.examiner(system, writer, renderer=renderer, served=served)
    extractor = reading.extractor(system, examiner, writer, renderer)
    rememberer = Rememberer(system, _queue(system), extractor=extractor)
    rewriter = reading.rewriter(system, writer, renderer)
    with host.times.part("readers"):
        pipeline = Pipeline(system, rememberer, host.tasks, adapters=adapters, rewriter=rewriter)
    with host.times.part("KV"):
        kv = await _activation(host, renderer, pipeline)
    orders, activator = (kv.orders, kv.activator) if kv is not None else (None, None)
    kept = EngineKV(kv.activator, host.loop, kv.compacts) if kv is not None else None
    parts = Parts(pipeline, orders, adapters, host.in_flight, prompts)
    doors.install(state, renderer, parts, _responses(system))
    routes.install(state, adapters)
    system.attach_engine(
        AttachedEngine(
            served,
            reader=lambda: examiner.status,
            text_changed=kv.orders.promoter.changed if kv is not None else None,
            adapters_changed=adapters.sweep if adapters is not None else None,
        )
    )
    if prompts is not None:
        system.erasures.listen(prompts.forget)
    if adapters is not None:
        system.erasures.listen(lambda _: adapters.sweep())
    await asyncio.to_thread(_start, host, rememberer, kept)
    examiner.start()
    atexit.register(examiner.stop)
    if system.config.training.in_server:
        _start_transforms(host, writer=writer, renderer=renderer, kept=kept)
    return MemoryEngine(pipeline, adapters=adapters, activator=activator, tasks=host.tasks)


def has_connector(vllm_config: Any) -> bool:
    """Whether the engine runs with our KV connector, alone or as one of several."""
    transfer = vllm_config.kv_transfer_config
    if transfer is None:
        return False
    return CONNECTOR in json.dumps(dataclasses.asdict(transfer), default=str)


async def _salter(system: MemorySystem) -> gateway.Salter:
    governance = system.config.governance
    secret = system.keys.secrets.reader(CACHE_SALT)
    await asyncio.to_thread(secret)  # reads its source
    return gateway.Salter(
        secret,
        system.policies.isolation_of,
        governance.trust_client_kv_transfer_params,
        generation=system.erasures.generation,
    )


async def _served_model(host: _Host) -> EngineModel:
    """The served model with the digest of its weights, else its name; reads the weights once."""
    model_config = host.vllm_config.model_config
    known = host.system.config.kv_path / "weights"
    digest = await asyncio.to_thread(weights_digest, model_config, known)
    return EngineModel(host.vllm_config, digest or model_config.model)


async def _adapters(host: _Host, served: EngineModel, state: Any) -> EngineAdapters | None:
    models = getattr(state, "openai_serving_models", None)
    if models is None or host.vllm_config.lora_config is None:
        return None
    adapters = EngineAdapters(
        host.client, models=models, system=host.system, served=served, loop=host.loop
    )
    adapters.install_listing()
    adapters.install_naming()
    await asyncio.to_thread(adapters.sweep)
    return adapters


def _served_prompts(host: _Host) -> ServedPrompts | None:
    """Conversations behind which the served model reads; None: it reads none."""
    reader, cache = host.system.config.reader, host.vllm_config.cache_config
    if reader.mode == "fast" or reader.url is not None or not reader.continued:
        return None
    if not cache.enable_prefix_caching:
        return None
    return ServedPrompts((cache.num_gpu_blocks or 0) * cache.block_size)


async def _activation(
    host: _Host, renderer: PromptRenderer, pipeline: Pipeline
) -> _ActivationMemory | None:
    """Activation memory; None where the engine runs without our KV connector."""
    if not has_connector(host.vllm_config):
        log.info("activation memory is off: the engine runs without its KV connector")
        return None
    segments, config = host.system.segments, host.system.config
    names = await asyncio.to_thread(namer, host.vllm_config, config.kv_path)
    scopes = await asyncio.to_thread(lambda: host.system.scopes)
    planner = await _planner(host, scopes, renderer)
    host.system.erasures.listen(lambda _: planner.forget_texts())
    builder = ChainBuilder(host.client, store=segments, namer=names, in_flight=host.in_flight)
    near = _near(host, builder=builder, scopes=scopes, renderer=renderer)
    activator = EngineActivator(
        renderer=renderer,
        pipeline=pipeline,
        planner=planner,
        builder=builder,
        near=near,
        store=segments,
        scopes=scopes,
    )
    spawn = host.tasks.spawn
    promoter = Promoter(
        activator.build_head, least_uses=config.kv.promote_uses, spawn=spawn, loop=host.loop
    )
    prefetcher = None
    if config.kv.prefetch:
        prefetcher = Prefetcher(
            TensorStore(segments), namer=names, recent=segments.recent, scopes=scopes, spawn=spawn
        )
    block_size = host.vllm_config.cache_config.block_size
    vocabulary = Vocabulary(len(renderer.inner_tokenizer), planner.special)
    spawn(builder.measure())
    atexit.register(segments.empty_memory)
    return _ActivationMemory(
        KVOrders(
            planner,
            near=near,
            compacts=_compacts(host, builder, scopes, vocabulary),
            promoter=promoter,
            prefetcher=prefetcher,
            block_size=block_size,
            redactors=host.system.redactors,
            scopes=scopes,
            quota=KVQuota(config.kv_path),
            limits_of=host.system.limits_of,
            rekeyer=Rekeyer(TensorStore(segments), names, scopes),
        ),
        activator,
        CompactStore(
            TensorStore(segments),
            names,
            scopes,
            vocabulary,
            dtype=host.vllm_config.model_config.dtype,
            quota=KVQuota(config.kv_path),
            limits_of=host.system.limits_of,
        ),
    )


def _compacts(
    host: _Host, builder: ChainBuilder, scopes: Scopes, vocabulary: Vocabulary
) -> CompactPlanner:
    problem = compact_problem(host.vllm_config)
    context = host.vllm_config.model_config.max_model_len
    segments, spawn = host.system.segments, host.tasks.spawn
    return CompactPlanner(segments, builder, scopes, spawn, vocabulary, context, problem)


async def _planner(host: _Host, scopes: Scopes, renderer: PromptRenderer) -> ChainPlanner:
    config = host.system.config
    return ChainPlanner(
        renderer.inner_tokenizer,
        config=config.kv,
        scopes=scopes,
        prompts=SharedPrompts(config.kv_path / "prompts", config.kv.shared_system_prompt_people),
        generation=host.system.segments.generation,
        plain_head=await renderer.plain_head(),
    )


def _near(
    host: _Host, builder: ChainBuilder, scopes: Scopes, renderer: PromptRenderer
) -> NearPlanner:
    segments, config = host.system.segments, host.system.config.kv
    return NearPlanner(
        ContextIndex(segments, builder.namer, config.near_max_kl),
        views=host.system.views,
        scopes=scopes,
        builder=builder,
        spawn=host.tasks.spawn,
        heals=config.near_heal,
        probe=Probe(
            builder, store=segments, questions=config.near_probes, tail_of=renderer.tail_of
        ),
        problem=rotation_problem(host.vllm_config),
    )


def _responses(system: MemorySystem) -> ResponseStore | None:
    """The store of `/v1/responses`; None: replies are not stored."""
    config = system.config.responses
    if not config.store:
        return None
    return ResponseStore(system.database, config.keep_days, system.redactors)


def _join(system: MemorySystem, served: EngineModel) -> None:
    """Join the servers of the same database. Raises ConfigError: this one does not fit them."""
    traits = {"embedder": system.indexer.signature}
    if system.config.database.models == "one":
        traits["model"] = served.fingerprint
    system.replicas.join(traits)
    ServedModels(system.database).note(served.fingerprint)
    atexit.register(system.replicas.leave)


def _queue(system: MemorySystem) -> JobQueue:
    return JobQueue(system.jobs, system.config.jobs)


def _start(host: _Host, rememberer: Rememberer, kept: EngineKV | None = None) -> None:
    """Start the job queue and the indexer. Blocks while the embedder loads."""
    system = host.system
    with host.times.part("index"):
        system.indexer.serve_stored()
    with host.times.part("embedder"):
        try:
            system.embedder.warm()
        except EmbedderUnavailable as error:
            log.warning("%s; memory is searched by words alone until it answers", error)
    with host.times.part("jobs"):
        rememberer.start({ERASE: Eraser(system).run, **(kept.jobs if kept else {})})
        atexit.register(rememberer.stop)
        system.indexer.start()


def _start_transforms(
    host: _Host, writer: EngineWriter, renderer: PromptRenderer, kept: EngineKV | None
) -> None:
    """Start the worker of jobs that make one kind of memory from another."""
    model = host.vllm_config.model_config
    runner = JobRunner(
        host.system,
        (model.model, model.revision),
        (writer, renderer.tokenizer.escape),
        kept=kept,
        threads=max(1, (os.cpu_count() or 2) // 2),
    )
    worker = TransformWorker(runner)
    worker.start()
    atexit.register(worker.stop)
