"""The patch ledger: each patch compared with vLLM's own function."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.orders import Orders, SharedHead, Source
from memos_vllm.engine import patches
from memos_vllm.engine.patches import cpu_lora, pinned_lora, seeded_chunks, shared_heads

pytest.importorskip("vllm", reason="there is nothing to patch: make venv")
LEDGER = Path(__file__).parents[2] / "patches"
ADAPTERS, RANK, IN, OUT = 3, 4, 16, 24
ROWS = [0, -1, 2, 2, -1, 1, 0]


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def shrink() -> torch.Tensor:
    return numbers(ADAPTERS, 1, RANK, IN, seed=1)


@pytest.fixture
def expand() -> torch.Tensor:
    return numbers(ADAPTERS, 1, OUT, RANK, seed=2)


def by_hand(inputs: torch.Tensor, weights: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """A reference, row by row: an adapter's row is its product; the base model's does not change."""
    rows = [
        inputs[row] @ weights[index, 0].T if index >= 0 else before[row]
        for row, index in enumerate(ROWS)
    ]
    return torch.stack(rows)


def runs(indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    found, lengths = torch.unique_consecutive(torch.tensor(indices), return_counts=True)
    return found, lengths


@pytest.mark.slow
def test_the_plugin_installs_them_where_they_are_looked_up_and_twice_is_once():
    code = """
from memos_vllm.engine import general
from memos_vllm.engine.patches import cpu_lora, pinned_lora
general.register(); general.register()
from vllm.lora.model_manager import LRUCacheLoRAModelManager
from vllm.lora.ops import torch_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.platforms import current_platform
for function in cpu_lora.REPLACEMENTS:
    assert getattr(punica_cpu, function.__name__) is function
    assert getattr(torch_ops, function.__name__) is function
assert LRUCacheLoRAModelManager.pin_adapter is pinned_lora.pin_adapter
if current_platform.is_cpu():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    for name in ("_sample", "_bookkeeping_sync"):
        assert getattr(CPUModelRunner, name).__wrapped__ is getattr(GPUModelRunner, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_patch_has_its_page():
    pages = {path.stem for path in LEDGER.glob("0*.md")}
    assert pages == {patch.NAME for patch in patches.PATCHES}
    for page in pages:
        assert page in (LEDGER / "README.md").read_text()


def test_rows_of_the_base_model_stay_as_they_are(shrink):
    inputs, output = numbers(len(ROWS), IN, seed=3), torch.full((len(ROWS), RANK), 7.0)
    expected = by_hand(inputs, shrink, output)
    cpu_lora.bgmv_shrink(inputs, shrink, output, torch.tensor(ROWS))
    assert torch.allclose(output, expected, atol=1e-5)
    assert (output[1] == 7).all()


@pytest.mark.slow
def test_vllm_itself_gives_the_base_model_another_one_s_adapter():
    """Fails once vLLM does better: then the patch can go."""
    code = """
import torch
from vllm.lora.ops.torch_ops.lora_ops import bgmv_expand
weights, output = torch.ones(2, 1, 8, 4), torch.zeros(2, 8)
bgmv_expand(torch.ones(2, 4), weights, output, torch.tensor([0, -1]))
assert output[1].any(), "the base model's row is untouched"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_of_rows_is_the_same_as_its_rows(shrink, expand, adds, dtype):
    inputs = numbers(len(ROWS), IN, seed=3).to(dtype)
    found, lengths = runs(ROWS)
    buffers = [torch.zeros(len(ROWS), RANK) for _ in range(2)]
    cpu_lora.bgmv_shrink(inputs, shrink.to(dtype), buffers[0], torch.tensor(ROWS), 0.5)
    about = (None, lengths, found, len(found), 0, 0)
    cpu_lora.sgmv_shrink(inputs, shrink.to(dtype), buffers[1], *about, 0.5)
    assert torch.equal(*buffers)
    outputs = [torch.ones(len(ROWS), OUT, dtype=dtype) for _ in range(2)]
    cpu_lora.bgmv_expand(buffers[0], expand.to(dtype), outputs[0], torch.tensor(ROWS), adds)
    cpu_lora.sgmv_expand(buffers[0], expand.to(dtype), outputs[1], *about, adds)
    assert torch.equal(*outputs)
    assert (outputs[0][1] == 1).all()
    product = buffers[0].to(dtype) @ expand[0, 0].to(dtype).T
    assert torch.allclose(outputs[0][0], product[0] + adds, atol=1e-2)


def test_a_slice_is_written_where_it_belongs(expand):
    inputs = numbers(len(ROWS), RANK, seed=4)
    found, lengths = runs(ROWS)
    output = torch.zeros(len(ROWS), OUT + 10)
    cpu_lora.sgmv_expand_slice(
        inputs, expand, output, None, lengths, found, len(found), 0, 0, 5, OUT, True
    )
    expected = by_hand(inputs, expand, torch.zeros(len(ROWS), OUT))
    assert torch.allclose(output[:, 5 : 5 + OUT], expected, atol=1e-5)
    assert not output[:, :5].any()
    assert not output[:, 5 + OUT :].any()


def test_padding_of_adapter_and_model_may_differ(expand):
    for width in (OUT - 4, OUT + 4):
        output = torch.zeros(len(ROWS), width)
        cpu_lora.bgmv_expand(
            numbers(len(ROWS), RANK, seed=4), expand, output, torch.tensor(ROWS), True
        )
        assert output[0].any()
        assert not output[:, OUT:].any()


def test_a_batch_of_one_adapter_equals_vllm_s(expand):
    inputs, indices = numbers(5, RANK, seed=6), torch.full((5,), 2)
    ours = torch.zeros(5, OUT)
    cpu_lora.bgmv_expand(inputs, expand, ours, indices)
    assert torch.allclose(ours, torch.einsum("bi,boi->bo", inputs, expand[indices, 0]), atol=1e-5)


def test_names_and_parameters_are_those_of_vllm():
    import inspect

    theirs = importlib.import_module("vllm.lora.ops.torch_ops.lora_ops")
    source = inspect.getsource(theirs)
    for function in cpu_lora.REPLACEMENTS:
        assert f"def {function.__name__}(" in source
        for name in inspect.signature(function).parameters:
            assert f"    {name}: " in source


# -- 0002 ----------------------------------------------------------------------------------------------


def manager_of_two_slots() -> Any:
    """vLLM's own manager, without a model: three adapters in memory, room for two in a step."""
    module = importlib.import_module("vllm.lora.model_manager")
    made = object.__new__(module.LRUCacheLoRAModelManager)
    made.lora_config = SimpleNamespace(max_loras=2, max_cpu_loras=4)
    made.modules = {}
    made.lora_index_to_id = [None, None]
    made._registered_adapters = module.AdapterLRUCache(4, made.deactivate_adapter)
    made._active_adapters = module.AdapterLRUCache(2, made._deactivate_adapter)
    for number in (1, 2, 3):
        made._registered_adapters[number] = SimpleNamespace(id=number)
    return made


def a_step_with(manager: Any, *adapters: int) -> list[int]:
    """As vLLM's worker does it: each adapter of the step into a slot, then the rows to their slots."""
    for number in adapters:
        manager.activate_adapter(number)
    return [manager.lora_index_to_id.index(number) for number in adapters]


def test_vllm_s_own_pin_takes_a_slot_that_its_scheduler_gives_away():
    manager = manager_of_two_slots()
    manager._pin_lora_in_cpu_cache(1)
    manager._pin_lora_in_gpu_cache(1)
    with pytest.raises(ValueError, match="is not in list"):
        a_step_with(manager, 2, 3)


def test_a_pinned_adapter_leaves_every_slot_to_the_step_and_stays_in_memory():
    manager = manager_of_two_slots()
    assert pinned_lora.pin_adapter(manager, 1)
    assert sorted(a_step_with(manager, 2, 3)) == [0, 1]
    assert a_step_with(manager, 1)  # from memory
    for _ in range(2):
        manager.remove_oldest_adapter()
    assert manager.get_adapter(1) is not None
    with pytest.raises(ValueError, match="not registered"):
        pinned_lora.pin_adapter(manager, 9)


# -- 0003 ----------------------------------------------------------------------------------------------


def runner_of(seeds: dict[int, int], discarded: list[bool]) -> Any:
    """What the two methods read of a runner: the batch's generators, and the rows to discard."""
    generators = {row: torch.Generator().manual_seed(seed) for row, seed in seeds.items()}
    return SimpleNamespace(
        input_batch=SimpleNamespace(num_reqs=len(discarded), generators=generators),
        discard_request_mask=SimpleNamespace(np=np.array([*discarded, True])),
    )


@pytest.mark.slow
def test_vllm_s_own_bookkeeping_ends_with_a_seeded_request_in_chunks_on_a_cpu():
    """Fails once vLLM does better: then the patch can go."""
    module = importlib.import_module("vllm.v1.worker.gpu_model_runner")
    runner = runner_of({0: 1}, [True])
    with pytest.raises(RuntimeError, match="offset"):
        module.GPUModelRunner._bookkeeping_sync(runner, None, None, None, None, 0)


def test_a_discarded_sample_advances_no_generator_and_a_kept_one_does():
    runner = runner_of({0: 1, 2: 1}, [True, False, False])
    before = runner.input_batch.generators.copy()
    states = {row: generator.get_state() for row, generator in before.items()}

    def sample(self: Any) -> set[int]:
        for generator in self.input_batch.generators.values():
            torch.rand(1, generator=generator)
        return set(self.input_batch.generators)

    assert seeded_chunks.wrapped(sample)(runner) == {2}
    assert runner.input_batch.generators == before
    assert torch.equal(before[0].get_state(), states[0])
    assert not torch.equal(before[2].get_state(), states[2])


def test_generators_come_back_when_the_step_fails():
    runner = runner_of({0: 1}, [True])
    with pytest.raises(ValueError, match="step"), seeded_chunks.generators_set_aside(runner):
        raise ValueError("the step")
    assert set(runner.input_batch.generators) == {0}


RANKS = """
import sys, torch
from torch._dynamo.utils import counters
if sys.argv[1] == "patched":
    from memos_vllm.engine.patches import eager_sampling
    assert eager_sampling.install() and eager_sampling.install()
from vllm.v1.sample import sampler
logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-3.0, -1.0, -2.0]])
ranks = sampler.batched_count_greater_than(logprobs, torch.tensor([[-2.0], [-3.0]]))
assert ranks.tolist() == [2, 3], ranks
print(counters["stats"]["calls_captured"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "compiles"), [("vllm's own", True), ("patched", False)])
def test_ranks_are_the_same_and_compiled_by_vllm_alone(how: str, compiles: bool):
    done = subprocess.run(
        [sys.executable, "-c", RANKS, how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (int(done.stdout.split()[-1]) > 0) == compiles


@pytest.fixture
def hashes(monkeypatch) -> Any:
    """Hashes of a prompt's blocks, as vLLM's own hasher gives them, with the patch."""
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.request import Request

    function = getattr(kv_cache_utils, shared_heads.FUNCTION)
    original = getattr(function, "__wrapped__", function)
    patched = shared_heads._with_border(original)
    monkeypatch.setattr(kv_cache_utils, shared_heads.FUNCTION, patched)
    kv_cache_utils.init_none_hash(sha256)

    def of(salt: str | None, head: SharedHead | None, near: bool = False) -> list[bytes]:
        segment = Segment(40, "scope")
        source = (Source(0, "scope", "key", 0),) if near else ()
        orders = Orders((segment,), near=source, shared=head)
        params = SamplingParams(max_tokens=1, extra_args={"kv_transfer_params": orders.to_params()})
        request = Request(
            request_id="one",
            prompt_token_ids=list(range(100)),
            sampling_params=params,
            pooling_params=None,
            cache_salt=salt,
            block_hasher=kv_cache_utils.get_request_block_hasher(16, sha256),
        )
        return list(request.block_hashes)

    return of


@pytest.mark.parametrize("end", [16, 17, 31, 32, 40, 96, 99, 100])
def test_people_share_hashes_of_the_head_s_whole_blocks_and_of_no_other(hashes, end):
    head = SharedHead(end, "tenant")
    ann, bob, other = hashes("ann", head), hashes("bob", head), hashes("ann", SharedHead(end, "x"))
    shared = end // 16
    assert ann[:shared] == bob[:shared]
    assert not set(ann[shared:]) & set(bob)
    assert not set(ann) & set(other), "another tenant"
    assert not set(ann) & set(hashes("ann", None)) or not shared


@pytest.mark.parametrize(("end", "near"), [(0, False), (15, False), (40, True)])
def test_a_head_without_a_whole_block_and_approximate_blocks_stay_private(hashes, end, near):
    assert hashes("ann", SharedHead(end, "tenant"), near) == hashes("ann", None, near)
    assert not set(hashes("bob", SharedHead(end, "tenant"), near)) & set(hashes("ann", None))


def test_a_request_without_a_salt_of_its_own_is_hashed_as_before(hashes):
    assert hashes(None, SharedHead(40, "tenant")) == hashes(None, None)


def test_a_function_that_salts_in_another_way_is_left_alone():
    def salts_each(request: Any, start: int, end: int, mm: int) -> Any:
        return (request.cache_salt,), mm

    assert not shared_heads.salts_first_block(salts_each)
    assert not shared_heads.salts_first_block(lambda request: None)
