"""Moved keys equal those that the engine computes at the new position; other models are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from memos_vllm.activation import rotation as rotations
from memos_vllm.engine.kv.rope import rotation_of, rotation_problem
from memos_vllm.engine.kv.support import unsupported_reason

HEAD, HEADS, TOKENS = 64, 2, 24
LONGEST = 4096
THETA = 10_000.0
LLAMA = ("LlamaForCausalLM",)
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": THETA},
    "another base": {"rope_type": "default", "rope_theta": 500_000.0},
    "a part of each head": {
        "rope_type": "default",
        "rope_theta": THETA,
        "partial_rotary_factor": 0.5,
    },
    "linear": {"rope_type": "linear", "rope_theta": THETA, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": THETA,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
}


def served(config: Any) -> SimpleNamespace:
    """As much of vLLM's configuration as is looked at."""
    model = SimpleNamespace(hf_config=config, hf_text_config=config, get_head_size=lambda: HEAD)
    return SimpleNamespace(model_config=model)


def llama(rope: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=HEAD * HEADS,
        num_attention_heads=HEADS,
        max_position_embeddings=LONGEST,
        rope_parameters=dict(rope),
        architectures=list(LLAMA),
    )


def plain(architectures: tuple[str, ...] | None = LLAMA, **shape: Any) -> SimpleNamespace:
    return SimpleNamespace(architectures=architectures, **shape)


def rotation(config: Any):
    found = rotation_of(served(config))
    assert found is not None
    return found


def random_keys() -> torch.Tensor:
    """(tokens, heads, head_dim), before any position"""
    return torch.randn(TOKENS, HEADS, HEAD, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def engine():
    """Keys as vLLM's own layer makes them from a first position on."""
    pytest.importorskip("vllm", reason="the rotation is vLLM's: make venv")
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    def keys_at(first: int, rope: dict[str, Any]) -> torch.Tensor:
        layer = get_rope(HEAD, LONGEST, True, dict(rope), torch.float32)
        flat = random_keys().view(TOKENS, HEADS * HEAD)
        _, keys = layer.forward_native(torch.arange(first, first + TOKENS), flat.clone(), flat)
        return keys.view(TOKENS, HEADS, HEAD)

    with set_current_vllm_config(VllmConfig()):
        yield keys_at


# -- against the engine -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize(("p", "q"), [(0, 1), (16, 53), (800, 3), (31, 2900), (3000, 2983)])
def test_moved_keys_are_those_that_the_engine_makes_there(engine, name, p, q):
    rope = ROPES[name]
    there = engine(q, rope)
    moved = rotation(llama(rope)).by(q - p)(engine(p, rope))
    # float32 angles: the engine's own error grows with the position
    assert torch.allclose(moved, there, rtol=0, atol=1e-3)
    assert not torch.allclose(engine(p, rope), there, rtol=0, atol=0.1), "or there is no test"


@pytest.mark.parametrize("name", ["another base", "linear", "llama3", "yarn"])
def test_another_kind_of_positions_is_not_close(engine, name):
    """The tolerance above tells them apart."""
    moved = rotation(llama(ROPES["default"])).by(900)(engine(100, ROPES[name]))
    assert (moved - engine(1000, ROPES[name])).abs().max() > 0.1


def test_keys_of_the_engine_s_type_come_back_in_it(engine):
    keys = engine(100, ROPES["default"]).bfloat16()
    moved = rotation(llama(ROPES["default"])).by(200)(keys)
    assert moved.dtype == torch.bfloat16
    assert torch.allclose(moved.float(), engine(300, ROPES["default"]), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("name", ROPES)
def test_the_engine_s_kernel_and_torch_turn_alike(engine, name, monkeypatch):
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    assert rotations._kernel(torch.device("cpu")) is not None
    keys, turn = random_keys(), rotation(llama(ROPES[name]))
    by_kernel = turn.by(700)(keys)
    monkeypatch.setattr(rotations, "_kernel", lambda device: None)
    assert torch.allclose(by_kernel, turn.by(700)(keys), rtol=0, atol=1e-5)
    assert not torch.equal(by_kernel, keys)


# -- by itself ---------------------------------------------------------------------------------------


def test_there_and_back_is_where_it_was_and_the_given_keys_are_not_changed():
    keys, turn = random_keys(), rotation(llama(ROPES["llama3"]))
    given = keys.clone()
    there = turn.by(700)(keys)
    assert torch.equal(keys, given)
    assert torch.allclose(turn.by(-700)(there), keys, atol=1e-5)
    assert torch.allclose(turn.by(300)(turn.by(400)(keys)), there, atol=1e-5)
    assert torch.equal(turn.by(0)(keys), keys)


def test_unrotated_dimensions_stay():
    keys = random_keys()
    moved = rotation(llama(ROPES["a part of each head"])).by(100)(keys)
    assert torch.equal(moved[..., HEAD // 2 :], keys[..., HEAD // 2 :])
    assert not torch.allclose(moved[..., : HEAD // 2], keys[..., : HEAD // 2], atol=0.1)


@pytest.mark.parametrize(
    "config",
    [
        plain(rope_theta=500_000.0),
        plain(rope_theta=500_000.0, rope_scaling=None),
        plain(rope_theta=500_000.0, rope_scaling={"type": "default"}),
        plain(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}),
        plain(("Other", "Qwen3ForCausalLM"), rope_parameters={"rope_theta": 500_000.0}),
        Qwen2Config(
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            architectures=["Qwen2ForCausalLM"],
        ),
    ],
)
def test_the_base_is_found_in_every_form_of_a_configuration(config):
    assert rotation_problem(served(config)) is None
    wanted = rotation(llama(ROPES["another base"])).frequencies
    assert torch.equal(rotation(config).frequencies, wanted)
    assert len(wanted) == HEAD // 2


def test_scaling_in_its_older_form_is_the_same():
    older = LlamaConfig(
        hidden_size=HEAD * HEADS,
        num_attention_heads=HEADS,
        rope_theta=THETA,
        rope_scaling={"type": "linear", "factor": 4.0},
        architectures=list(LLAMA),
    )
    wanted = rotation(llama(ROPES["linear"])).frequencies
    assert torch.equal(rotation(older).frequencies, wanted)
    assert not torch.equal(wanted, rotation(llama(ROPES["default"])).frequencies)


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (plain(("GPT2LMHeadModel",)), "GPT2LMHeadModel"),
        (plain(("Gemma3ForCausalLM", "Phi3ForCausalLM")), "Gemma3ForCausalLM, Phi3ForCausalLM"),
        (plain(None), "this model"),
        (plain(()), "this model"),
        (plain(rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
        (plain(rope_parameters={"rope_type": "longrope"}), "'longrope'"),
        (plain(rope_scaling={"type": "dynamic", "factor": 2.0}), "'dynamic'"),
    ],
)
def test_models_whose_keys_cannot_be_moved_are_refused_with_a_reason(config, reason):
    problem = rotation_problem(served(config))
    assert problem is not None
    assert reason in problem
    assert rotation_of(served(config)) is None


def test_dynamic_scaling_is_refused_in_a_real_configuration():
    config = llama({"rope_type": "dynamic", "rope_theta": THETA, "factor": 2.0})
    assert "dynamic" in str(rotation_problem(served(config)))
    assert rotation_of(served(config)) is None


# -- which models' KV is carried at all ------------------------------------------------------------

FULL = "FullAttentionSpec"


def refusal(
    kv_dtype: str = "auto",
    spec: str | None = None,
    groups: int = 1,
    contexts: int = 1,
    sleeps: bool = False,
    **more: Any,
) -> str | None:
    """A configuration.

    Args:
        spec: of the KV cache; None: only the model's configuration is known.
    """
    interface = pytest.importorskip(
        "vllm.v1.kv_cache_interface", reason="the specs are vLLM's: make venv"
    )
    config = SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.bfloat16, enable_sleep_mode=sleeps),
        parallel_config=SimpleNamespace(decode_context_parallel_size=contexts),
        cache_config=SimpleNamespace(cache_dtype=kv_dtype),
    )
    if spec is None:
        return unsupported_reason(config, None)
    sizes = {"block_size": 16, "num_kv_heads": 1, "head_size": HEAD, "dtype": torch.bfloat16}
    group = SimpleNamespace(kv_cache_spec=getattr(interface, spec)(**sizes, **more))
    return unsupported_reason(config, SimpleNamespace(kv_cache_groups=[group] * groups))


@pytest.mark.parametrize("kv_dtype", ["auto", "bfloat16", "float16", "float32"])
def test_kv_of_full_attention_is_carried(kv_dtype):
    assert refusal(kv_dtype, FULL) is None
    assert refusal(kv_dtype) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"kv_dtype": "fp8", "spec": FULL}, "quantised (fp8)"),
        ({"kv_dtype": "fp8"}, "quantised (fp8)"),
        ({"contexts": 2}, "decode context parallelism"),
        ({"spec": FULL, "sleeps": True}, "sleep mode"),
        ({"spec": FULL, "groups": 2}, "2 kinds of state"),
        ({"spec": "MLAAttentionSpec"}, "MLAAttentionSpec"),
        ({"spec": "SlidingWindowSpec", "sliding_window": 64}, "SlidingWindowSpec"),
        ({"spec": FULL, "sliding_window": 64}, "window"),
        ({"spec": FULL, "attention_chunk_size": 64}, "window"),
    ],
)
def test_kv_that_cannot_be_carried_is_refused_with_a_reason(model, reason):
    assert reason in str(refusal(**model))
