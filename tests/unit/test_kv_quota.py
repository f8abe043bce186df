"""Stored KV of each tenant, bytes."""

from __future__ import annotations

from memos_vllm.activation import quota
from memos_vllm.activation.names import scope_folder
from memos_vllm.activation.quota import KVQuota


def store(folder, scope, size, model="m"):
    path = folder / "segments" / model / scope_folder(scope)
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{size}.safetensors").write_bytes(b"x" * size)


def test_a_tenants_kv_is_that_of_all_its_people_in_all_models(tmp_path, monkeypatch):
    one = KVQuota(tmp_path)
    store(tmp_path, "ann", 600)
    store(tmp_path, "bob", 500, model="other")
    store(tmp_path, "of another tenant", 10_000)
    assert one.has_room("acme", ["ann"], 1000)
    # Bob's part counts from his first order on, after the next measurement.
    monkeypatch.setattr(quota, "_SECONDS", -1.0)
    one.has_room("acme", ["bob/salt"], 1000)
    assert one._measure("acme") == 1100
    assert not one.has_room("acme", ["bob"], 1000)
    assert one.has_room("globex", ["eve"], 1)


def test_marks_outlive_the_process(tmp_path):
    store(tmp_path, "ann", 600)
    KVQuota(tmp_path).has_room("acme", ["ann"], 1000)
    assert not KVQuota(tmp_path).has_room("acme", ["bob"], 500)
