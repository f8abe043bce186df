"""Adapters before they are loaded: validation, packing, folders and uses."""

from __future__ import annotations

import base64
import json
import threading

import pytest
import safetensors.torch
import torch

from memos_vllm.cube.ids import TenantId, sha256
from memos_vllm.errors import (
    BadRequest,
    DamagedPayload,
    MemosError,
    NotFound,
    TooLarge,
    Unprocessable,
)
from memos_vllm.parametric.adapter.checks import check_fits
from memos_vllm.parametric.adapter.folders import AdapterFolders, engine_id, served_name
from memos_vllm.parametric.adapter.packed import unpack, upload_of_folder
from memos_vllm.parametric.adapter.uses import Uses
from tests.adapters import TARGETS, config_of, content_of, read_upload, small, tensors_of

LIMIT = 1 << 20
ONE = {"model.layers.0.self_attn.q_proj": (8, 16)}


def with_tensor(name: str, tensor: torch.Tensor) -> dict:
    return content_of({**tensors_of(ONE), name: tensor}, config_of())


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "adapter_config"),
        ({**small(), "path": "/etc"}, "adapter_config"),
        ({**small(), "adapter_model": 7}, "must be a string"),
        ({**small(), "adapter_model": "!!"}, "not base64"),
        ({**small(), "adapter_model": base64.b64encode(b"PK\x03\x04").decode()}, "safetensors"),
        ({**small(), "adapter_config": []}, "object"),
        (small(r=0), "adapter_config.r"),
        (small(r=2), "not of rank 2"),
        (small(peft_type="IA3"), "peft_type"),
        (small(bias="all"), "bias"),
        (small(use_dora=True), "use_dora"),
        (small(modules_to_save=["lm_head"]), "modules_to_save"),
        (small(layer_replication=[[0, 1]]), "layer_replication"),
        (small(rank_pattern={"q_proj": 8}), "rank_pattern"),
        (small(a_field_of_tomorrow=1), "a_field_of_tomorrow"),
        (small(init_lora_weights="pissa_niter_4"), "changes the base model"),
        (small(lora_alpha=float("inf")), "lora_alpha"),
        (small(target_modules="all-linear"), "target_modules"),
        (small(target_modules=["../../q_proj"]), "target_modules"),
        (small(target_modules=["k_proj"]), "not among"),
        (content_of({}, config_of()), "no weights"),
        (with_tensor(A, torch.full((4, 16), torch.nan)), "not finite"),
        (with_tensor(A, torch.zeros(4, 16, dtype=torch.int64)), "int64"),
        (with_tensor(A, torch.zeros(4, 16, dtype=torch.float16)), "float16, torch.float32"),
        (with_tensor(A, torch.zeros(4, 4, 4)), "not of rank"),
        (with_tensor("base_model.model.lm_head.weight", torch.zeros(4, 16)), "LoRA matrix"),
        (with_tensor(A.replace("layers.0", "layers.1"), torch.zeros(4, 16)), "only one"),
    ],
)
def test_an_unsupported_adapter_is_refused_with_the_reason(content, says):
    with pytest.raises(Unprocessable, match=says):
        read_upload(content, LIMIT)


def test_a_large_adapter_is_refused_before_it_is_decoded():
    with pytest.raises(TooLarge, match="adapter_bytes"):
        read_upload(small(), 100)


def test_equal_adapters_give_equal_files_despite_ignored_settings():
    one, other = read_upload(small(), LIMIT), read_upload(small(lora_dropout=0.9), LIMIT)
    assert one.pack() == other.pack()
    assert one.pack() != read_upload(small(seed=1), LIMIT).pack()
    assert one.pack() != read_upload(small(lora_alpha=9), LIMIT).pack(), (
        "the scaling is part of the file"
    )


def test_an_adapter_survives_packing():
    adapter = read_upload(small(use_rslora=True), LIMIT)
    again = unpack(adapter.pack())
    assert again.config == adapter.config
    assert again.modules() == {
        f"model.layers.{i}.self_attn.{t}": (8, 16) for i in (0, 1) for t in TARGETS
    }
    for name, tensor in adapter.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    assert adapter.config.scaling == 8 / 2


@pytest.mark.parametrize("damage", [b"", b"{}", small()["adapter_model"].encode()])
def test_a_file_that_is_not_a_packed_adapter_is_damaged(damage):
    with pytest.raises(DamagedPayload):
        unpack(damage)


def test_an_adapter_must_fit_the_served_model():
    adapter = read_upload(small(), LIMIT)
    fits = adapter.modules()
    check_fits(adapter, fits, 4)
    check_fits(adapter, fits, None)
    with pytest.raises(Unprocessable, match="--max-lora-rank 2"):
        check_fits(adapter, fits, 2)
    with pytest.raises(Unprocessable, match="no linear layer"):
        check_fits(adapter, {}, 4)
    with pytest.raises(Unprocessable, match="another model"):
        check_fits(adapter, dict.fromkeys(fits, (16, 16)), 4)


def test_the_engine_gets_pefts_format_with_validated_fields_only(tmp_path):
    adapter, folders = read_upload(small(), LIMIT), AdapterFolders(tmp_path / "adapters")
    path = folders.ready("name", adapter.pack, lambda _: None)
    assert sorted(p.name for p in path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((path / "adapter_config.json").read_text())
    assert "base_model_name_or_path" not in config
    assert config["r"] == 4
    written = safetensors.torch.load_file(path / "adapter_model.safetensors")
    assert written.keys() == adapter.tensors.keys()
    assert read_upload(upload_of_folder(path), LIMIT).pack() == adapter.pack()


def test_a_folder_is_created_once_and_again_after_removal(tmp_path):
    folders, reads = AdapterFolders(tmp_path), []

    def load() -> bytes:
        reads.append(1)
        return read_upload(small(), LIMIT).pack()

    threads = [threading.Thread(target=folders.ready, args=("a", load, print)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders.names() == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "no partial folder is left"
    count = len(reads)
    folders.ready("a", load, print)
    assert len(reads) == count
    folders.remove("a")
    folders.remove("a")
    folders.ready("a", load, print)
    assert len(reads) == count + 1


def test_an_adapter_in_use_stays_until_its_last_use_ends(tmp_path):
    folders, removed = AdapterFolders(tmp_path), []

    def unused(name: str) -> None:
        removed.append(name)
        assert folders.remove(name)

    uses = Uses(folders, unused)
    path = folders.ready("a", read_upload(small(), LIMIT).pack, print)
    uses.begin("a")
    uses.begin("a")
    uses.remove("a")
    with pytest.raises(NotFound):
        uses.begin("a")
    uses.end("a")
    assert path.is_dir()
    uses.end("a")
    assert removed == ["a"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFound):
        uses.begin("a")
    folders.ready("a", read_upload(small(), LIMIT).pack, print)
    uses.begin("a")
    uses.end("a")
    uses.remove("a")
    assert not path.exists(), "an unused adapter is removed at once"


def test_an_adapter_stored_again_before_its_removal_stays(tmp_path):
    folders, removed = AdapterFolders(tmp_path), []
    uses = Uses(folders, removed.append)
    folders.ready("a", read_upload(small(), LIMIT).pack, print)
    uses.begin("a")
    uses.remove("a")
    uses.cancel_removal("a")
    uses.begin("a")
    uses.end("a")
    uses.end("a")
    assert removed == []


def test_a_use_in_another_process_prevents_removal(tmp_path):
    """Two holders of one folder: locks belong to open files, as between processes."""
    folders, other = AdapterFolders(tmp_path), AdapterFolders(tmp_path)
    path = folders.ready("a", read_upload(small(), LIMIT).pack, print)
    lock = other.hold("a")
    assert not folders.remove("a")
    assert path.is_dir()
    lock.release()
    assert folders.remove("a")
    assert not path.exists()


def test_no_folder_is_created_for_an_adapter_that_does_not_fit(tmp_path):
    def refuse(_: object) -> None:
        raise Unprocessable("it does not fit")

    folders = AdapterFolders(tmp_path)
    with pytest.raises(Unprocessable):
        folders.ready("a", read_upload(small(), LIMIT).pack, refuse)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_the_missing_file_of_a_folder_is_named(tmp_path, missing):
    for name in {"adapter_config.json", "adapter_model.safetensors"} - {missing}:
        (tmp_path / name).write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(BadRequest, match=missing):
        upload_of_folder(tmp_path)


def test_names_differ_by_tenant_and_model_and_determine_ids():
    digest = sha256(b"weights")
    names = {
        served_name(TenantId(tenant), digest, model)
        for tenant in ("acme", "globex")
        for model in ("one", "another")
    }
    assert len(names) == 4
    assert all(0 < engine_id(name) < 2**63 for name in names)
    assert len({engine_id(name) for name in names}) == 4


def test_every_refusal_is_a_memos_error():
    for content in ({"adapter_config": None, "adapter_model": None}, {"adapter_config": {}}):
        with pytest.raises(MemosError):
            read_upload(content, LIMIT)


@pytest.mark.parametrize("size", [3e38, 1e30, 70_000.0, 101.0])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_weights_that_are_not_finite_in_the_engines_arithmetic_are_refused(side, size):
    tensors = tensors_of(ONE)
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{side}.weight"
    tensors[name] = torch.full_like(tensors[name], size)
    with pytest.raises(Unprocessable, match="at most"):
        read_upload(content_of(tensors, config_of()), LIMIT)


def test_an_update_far_above_the_base_weights_is_refused_though_its_factors_are_not_large():
    tensors = {name: torch.full_like(tensor, 3.0) for name, tensor in tensors_of(ONE).items()}
    with pytest.raises(Unprocessable, match="root mean square"):
        read_upload(content_of(tensors, config_of()), LIMIT)


@pytest.mark.parametrize("alpha", [1e30, 3e38, 1e6])
def test_a_scaling_without_measure_is_refused(alpha):
    with pytest.raises(Unprocessable):
        read_upload(small(lora_alpha=alpha), LIMIT)


def test_the_largest_update_that_is_taken_is_finite_in_half_precision():
    """Its output for an input of norm sqrt(in), as layer norms give it, in float16 and bfloat16."""
    wide, out, rank = 4096, 4096, 8
    shapes = {"model.layers.0.self_attn.q_proj": (out, wide)}
    tensors = tensors_of(shapes, rank, size=0.35)  # root mean square of B·A·2: 0.7
    adapter = read_upload(content_of(tensors, config_of(rank)), LIMIT << 3)
    a, b = (
        adapter.tensors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{s}.weight"]
        for s in "AB"
    )
    x = torch.randn(4, wide, generator=torch.Generator().manual_seed(1))
    for kind in (torch.float16, torch.bfloat16):
        y = (x.to(kind) @ a.T.to(kind)) @ (b * adapter.config.scaling).T.to(kind)
        assert bool(torch.isfinite(y).all())
