"""The parts of LMCache's Python API that we use, and the names of KV in it."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from memos_vllm.config.kv import KVConfig

pytest.importorskip("vllm", reason="LMCache's adapters are made for it: make venv")
pytest.importorskip("lmcache")

import torch
from lmcache.integration.vllm import vllm_multi_process_adapter as theirs
from lmcache.v1.distributed.api import EncodedObjectKey

from memos_vllm.engine.lmcache.client import LMCacheError, LookupClient, TransferClient, _operation
from memos_vllm.engine.lmcache.endpoint import Endpoint, model_name
from memos_vllm.engine.lmcache.messages import Transfer


def endpoint(world: int = 1) -> Endpoint:
    parallel = SimpleNamespace(
        world_size=world, rank=0, tensor_parallel_size=world, pipeline_parallel_size=1
    )
    group = SimpleNamespace(kv_cache_spec=SimpleNamespace(block_size=32))
    vllm: Any = SimpleNamespace(parallel_config=parallel)
    kv: Any = SimpleNamespace(kv_cache_groups=[group])
    return Endpoint(vllm, kv, KVConfig(), "memos-model")


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_its_adapters_take_our_arguments():
    common = endpoint()._common()
    scheduler, worker = theirs.LMCacheMPSchedulerAdapter, theirs.LMCacheMPWorkerAdapter
    assert {"server_urls", *common} <= parameters(scheduler.__init__)
    assert {"server_url", *common} <= parameters(worker.__init__)
    assert {"request_id", "token_ids", "cache_salt"} <= parameters(
        scheduler.maybe_submit_lookup_request
    )
    assert {"token_ids", "start", "end", "request_id", "cache_salt"} <= parameters(
        scheduler.free_lookup_locks
    )
    for method in ("check_lookup_result", "cleanup_lookup_result", "end_session"):
        assert "request_id" in parameters(getattr(scheduler, method))
    for method in (worker.submit_store_request, worker.submit_retrieve_request):
        assert {"request_id", "op", "event", "cache_salt"} <= parameters(method)
    for adapter in (scheduler, worker):
        assert isinstance(adapter.is_healthy, property)
        assert callable(adapter._ensure_heartbeat_started)
        assert callable(adapter.shutdown)
    known = {f"lmcache.mp.{name}" for name in theirs.ExtraConfigDefault.__members__}
    assert set(common["extra_config"]) <= known


def test_a_transfer_becomes_its_operation():
    transfer = Transfer("r", "salt", tuple(range(128)), (3, 4), 64, 128, skip=32)
    operation = _operation(transfer)
    assert (operation.start, operation.end, operation.skip_first_n_tokens) == (64, 128, 32)
    assert operation.block_ids == [[3, 4]]
    assert operation.token_ids == list(range(128))
    assert transfer.written == (4,)


def test_keys_are_those_of_every_worker_s_share():
    keys = endpoint(world=2).keys("salt", [b"\x01" * 32, b"\x02" * 32])
    objects = {EncodedObjectKey(**key).to_object_key() for key in keys}
    assert len(objects) == 4
    assert {each.cache_salt for each in objects} == {"salt"}
    assert {each.model_name for each in objects} == {"memos-model"}
    assert len({each.kv_rank for each in objects}) == 2


def test_chunks_are_named_alike_in_every_process():
    hashes = endpoint().hashes(range(200), 64)
    assert len(hashes) == 3
    assert hashes[:2] == endpoint().hashes(range(130), 64)


def test_a_model_s_name_is_its_numbers_and_their_order():
    def name(digest: bytes = b"m", block: int = 32, dtype: torch.dtype = torch.bfloat16) -> str:
        model = SimpleNamespace(dtype=dtype, get_head_size=lambda: 64)
        return model_name(digest, SimpleNamespace(model_config=model), block)

    assert name() == name()
    assert len({name(), name(b"n"), name(block=64)}) == 3
    assert not set(name()) & set("@/\\\0")


class FakeAdapter:
    """An adapter of which every method fails, and one transfer ends without success."""

    store_futures: Any = {}
    retrieve_futures: Any = {}

    def __getattr__(self, name: str) -> Any:
        def fails(*_: Any, **__: Any) -> Any:
            raise RuntimeError(f"{name}: the socket is closed")

        return fails


TRANSFER = Transfer("r", "salt", tuple(range(64)), (3, 4), 0, 64)


@pytest.mark.parametrize(
    "call",
    [
        lambda: LookupClient(FakeAdapter()).submit_lookup("r", [1], "salt"),
        lambda: LookupClient(FakeAdapter()).lookup_result("r"),
        lambda: LookupClient(FakeAdapter()).forget_lookup("r"),
        lambda: LookupClient(FakeAdapter()).unlock("r", [1], 1, "salt"),
        lambda: LookupClient(FakeAdapter()).end_session("r"),
        lambda: TransferClient(FakeAdapter()).record_event(),
        lambda: TransferClient(FakeAdapter()).load(TRANSFER, None),
        lambda: TransferClient(FakeAdapter()).save(TRANSFER, None),
        lambda: TransferClient(FakeAdapter()).shutdown(),
    ],
)
def test_every_error_of_lmcache_becomes_one(call):
    with pytest.raises(LMCacheError, match="the socket is closed") as caught:
        call()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_in_our_arguments_is_no_error_of_lmcache():
    unknown: Any = {"tokens": [1]}
    with pytest.raises(TypeError):
        LookupClient(FakeAdapter()).submit_lookup("r", **unknown)
