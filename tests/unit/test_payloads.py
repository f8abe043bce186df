"""Payload files: durable, checked, in one tenant's folder; on a disk and on another fsspec store."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from memos_vllm.cube.ids import CubeId, TenantId
from memos_vllm.errors import DamagedPayload, VaultUnavailable
from memos_vllm.vault.payloads import PayloadStore

ACME, CUBE = TenantId("acme"), CubeId("cube_1")


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    return PayloadStore(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}")


def test_bytes_come_back_and_a_cubes_folder_goes_whole(store):
    digests = [store.put(ACME, CUBE, data) for data in (b"one", b"two")]
    assert [store.get(ACME, CUBE, digest) for digest in digests] == [b"one", b"two"]
    assert store.put(ACME, CUBE, b"one") == digests[0]
    with pytest.raises(DamagedPayload):
        store.get(TenantId("globex"), CUBE, digests[0])
    store.delete_cube(ACME, CUBE)
    store.delete_cube(ACME, CUBE)
    with pytest.raises(DamagedPayload, match="missing"):
        store.get(ACME, CUBE, digests[0])


def test_a_tenants_name_cannot_leave_the_folder(tmp_path):
    PayloadStore(str(tmp_path / "in")).put(TenantId("../../out"), CUBE, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_write_that_is_cut_off_leaves_no_file_under_the_final_name(tmp_path):
    store = PayloadStore(str(tmp_path))
    with (
        mock.patch.object(os, "fsync", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        store.put(ACME, CUBE, b"half")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_raises_vault_unavailable(tmp_path):
    store = PayloadStore(str(tmp_path))
    full = OSError(28, "No space left on device")
    with (
        mock.patch.object(os, "fsync", side_effect=full),
        pytest.raises(VaultUnavailable, match="No space"),
    ):
        store.put(ACME, CUBE, b"x")
