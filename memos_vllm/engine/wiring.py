"""Activation memory put onto a running server, where its engine has our connector."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

from memos_vllm.activation.backoff import ContextIndex
from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.engine.chat.activator import EngineActivator
from memos_vllm.engine.chat.handler import ChatMemory
from memos_vllm.engine.gateway import InFlight
from memos_vllm.engine.kv.fingerprint import namer
from memos_vllm.engine.kv.rope import rotation_problem
from memos_vllm.engine.kv_plan.builder import ChainBuilder
from memos_vllm.engine.kv_plan.near import NearPlanner
from memos_vllm.engine.kv_plan.planner import ChainPlanner
from memos_vllm.engine.kv_plan.prefetch import Prefetcher
from memos_vllm.engine.kv_plan.probe import Probe
from memos_vllm.engine.kv_plan.promoter import Promoter
from memos_vllm.pipeline import Pipeline
from memos_vllm.system import MemorySystem

CONNECTOR = "MemosConnector"


def has_connector(vllm_config: Any) -> bool:
    """Whether the engine runs with our connector, alone or as one of several."""
    transfer = vllm_config.kv_transfer_config
    if transfer is None:
        return False
    return CONNECTOR in json.dumps(dataclasses.asdict(transfer), default=str)


def attach_kv(
    memory: ChatMemory,
    pipeline: Pipeline,
    system: MemorySystem,
    engine_client: Any,
    people: InFlight,
    loop: asyncio.AbstractEventLoop,
) -> EngineActivator:
    """Let chats load and keep KV. Blocks: weights whose digest is not known yet are read."""
    config = system.config
    prompts = SharedPrompts(config.kv_path / "prompts", config.kv.shared_system_prompt_people)
    names = namer(engine_client.vllm_config, config.kv_path)
    builder = ChainBuilder(engine_client, system.segments, names, people)
    near = NearPlanner(
        ContextIndex(system.segments, names, config.kv.near_max_kl),
        system.views,
        system.scopes,
        builder,
        pipeline.spawn,
        config.kv.near_heal,
        Probe(builder, system.segments, config.kv.near_probes, memory.tail_of),
        rotation_problem(engine_client.vllm_config),
    )
    memory.plan_kv_with(
        lambda tokenizer: ChainPlanner(
            tokenizer, config.kv, system.scopes, prompts, system.segments.generation
        ),
        near,
    )
    activator = EngineActivator(memory, pipeline, builder, near, system.segments, system.scopes)
    if config.kv.prefetch:
        memory.prefetcher = Prefetcher(
            TensorStore(system.segments),
            names,
            system.segments.recent,
            system.scopes,
            pipeline.spawn,
        )
    promoter = Promoter(activator.build_head, config.kv.promote_uses, pipeline.spawn, loop)
    memory.promoter = promoter
    system.text_changed = promoter.changed
    loop.call_soon_threadsafe(pipeline.spawn, builder.measure())
    return activator
