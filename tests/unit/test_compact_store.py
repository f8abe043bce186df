"""Compacts in the store of segments: kept, replaced, divided among workers, and taken away with their text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from memos_vllm.activation.chain import own_digest
from memos_vllm.activation.names import Namer, scope_folder
from memos_vllm.activation.quota import KVQuota
from memos_vllm.config.limits import TenantLimits
from memos_vllm.errors import SegmentsUnavailable, Unprocessable
from memos_vllm.governance.scope import Scopes
from memos_vllm.parametric.training.order import Recall, Report
from tests.conftest import principal
from tests.unit.test_kv_store import FILE_BYTES, MODEL, keep, named, open_keeper, read

pytest.importorskip("vllm", reason="it stores what vLLM's worker loads: make venv")

from memos_vllm.engine.kv_plan.compact import Vocabulary
from memos_vllm.engine.kv_plan.compact_store import CompactStore

ANN = principal("ann")
SCOPES = Scopes(b"secret" * 8, "person")
LAYERS, PLACES, HEADS, SIZE = 2, 6, 4, 8
ABOUT = Report(
    outcome="passed", kl=0.04, recall=Recall(questions=4, ceiling=0.5, floor=0, adapter=0.4)
)


def cube(person: str | None = "ann", cube_id: str = "cube_1", sequence: int = 2):
    """A fake of a cube: its header's fields that name a compact."""
    return SimpleNamespace(meta=SimpleNamespace(id=cube_id, sequence=sequence, person=person))


def made(folder: Path, text: str = "text", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    kv = torch.randn(LAYERS, 2, PLACES, HEADS, SIZE)
    file = folder / f"compact-{seed}.safetensors"
    about = {"start": "57", "text": text, "tokens": "24", "method": "match"}
    save_file({"kv": kv}, file, about)
    return file


@pytest.fixture
def store(tmp_path) -> CompactStore:
    return of(tmp_path)


def of(folder: Path, ranks: tuple[str, ...] = ("",), limit: int | None = None) -> CompactStore:
    limits = TenantLimits(kv_bytes=limit)
    return CompactStore(
        open_keeper(folder),
        Namer(MODEL, ranks),
        SCOPES,
        Vocabulary(1000, frozenset({0, 1})),
        torch.bfloat16,
        KVQuota(folder / "kv"),
        lambda tenant: limits,
    )


def keys(store: CompactStore) -> list[str]:
    return sorted(name for name, _ in store.store.segments.disk.names())


def test_it_is_found_by_its_text_and_holds_what_was_made(store, tmp_path):
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    assert (kept.places, kept.tokens, kept.start, kept.method) == (PLACES, 24, 57, "match")
    assert (kept.kl, kept.recall, kept.cube) == (0.04, 0.8, "cube_1@2")
    (found,) = [each for _, each in store.store.segments.compacts.all()]
    assert found == kept
    assert kept.name.scope == scope_folder(SCOPES.person(ANN))
    layers, tier = read(store.store, kept.name)
    assert tier == "ram"
    torch.manual_seed(0)
    assert torch.equal(layers, torch.randn(LAYERS, 2, PLACES, HEADS, SIZE).bfloat16())
    with store.store.open(kept.name) as (reader, _):
        assert reader.metadata["digest"] == own_digest(store.vocabulary.places(kept))


def test_a_shared_cube_has_one_for_the_tenant(store, tmp_path):
    kept = store.keep(ANN, cube(None), "text", made(tmp_path), ABOUT)
    assert kept.name.scope == scope_folder(SCOPES.tenant(ANN))


def test_a_new_one_of_the_same_text_replaces_the_old(store, tmp_path):
    first = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    second = store.keep(ANN, cube(), "text", made(tmp_path, seed=1), ABOUT)
    assert first.digest != second.digest
    assert keys(store) == [second.segment]
    assert store.keep(ANN, cube(), "text", made(tmp_path, seed=1), ABOUT) == second
    assert keys(store) == [second.segment], "the very same stays"


def test_each_worker_has_its_heads(tmp_path):
    store = of(tmp_path, ("0of2", "1of2"))
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    parts = [read(store.store, dataclasses.replace(kept.name, rank=r))[0] for r in kept.ranks]
    torch.manual_seed(0)
    whole = torch.randn(LAYERS, 2, PLACES, HEADS, SIZE).bfloat16()
    assert torch.equal(torch.cat(parts, dim=3), whole)
    (tmp_path / "three").mkdir()
    three = of(tmp_path / "three", ("0of3", "1of3", "2of3"))
    with pytest.raises(Unprocessable, match="not divided"):
        three.keep(ANN, cube(), "text", made(tmp_path), ABOUT)


def test_of_other_tokens_it_is_refused(store, tmp_path):
    with pytest.raises(Unprocessable, match="other tokens"):
        store.keep(ANN, cube(), "another", made(tmp_path), ABOUT)
    assert keys(store) == []


def test_a_file_that_cannot_be_read_is_no_compact(store, tmp_path):
    with pytest.raises(SegmentsUnavailable):
        store.keep(ANN, cube(), "text", tmp_path / "nothing", ABOUT)
    (tmp_path / "bad").write_bytes(b"x" * 100)
    with pytest.raises(SegmentsUnavailable):
        store.keep(ANN, cube(), "text", tmp_path / "bad", ABOUT)


def test_a_cube_that_was_deleted_meanwhile_gets_none(store, tmp_path):
    store.store.segments.forget("cube_1")
    with pytest.raises(Unprocessable, match="deleted or changed meanwhile"):
        store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    assert keys(store) == []
    store.store.segments.forget("cube_2", 3)
    with pytest.raises(Unprocessable, match="deleted or changed meanwhile"):
        store.keep(ANN, cube(cube_id="cube_2", sequence=2), "text", made(tmp_path), ABOUT)
    store.keep(ANN, cube(cube_id="cube_2", sequence=3), "text", made(tmp_path), ABOUT)


def test_a_tenant_at_its_limit_of_kv_gets_none(tmp_path):
    store = of(tmp_path, limit=1)
    first = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    again = of(tmp_path, limit=1)
    with pytest.raises(Unprocessable, match="kv_bytes"):
        again.keep(ANN, cube(cube_id="cube_2"), "text", made(tmp_path, seed=1), ABOUT)
    assert keys(store) == [first.segment]


def test_a_change_of_the_cube_takes_it_away(store, tmp_path):
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    other = store.keep(ANN, cube(cube_id="cube_2"), "text", made(tmp_path, seed=1), ABOUT)
    segments = store.store.segments
    assert segments.forget("cube_1", 3) == 1
    assert segments.where(kept.name) is None
    assert [each for _, each in segments.compacts.all()] == [other]


def test_conversations_are_forgotten_without_it_and_a_scope_with_it(store, tmp_path):
    scope = SCOPES.person(ANN)
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    talk = named("talk", scope)
    assert keep(store.store, talk, ())
    segments = store.store.segments
    segments.forget_scope(scope, compacts=False)
    assert segments.where(talk) is None
    assert segments.where(kept.name) == "ram"
    segments.close_scope(scope)
    assert segments.where(kept.name) is None
    assert not list(segments.compacts.all())
    assert keys(store) == []


def test_nothing_evicts_it(tmp_path):
    store = of(tmp_path)
    store.store.segments.disk.max_bytes = 3 * FILE_BYTES
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    for number in range(8):
        keep(store.store, named(f"k{number}"), ("b@1",))
    assert store.store.segments.disk.has(kept.segment)
    assert len(keys(store)) < 5


def test_a_note_without_its_segment_is_swept(store, tmp_path):
    kept = store.keep(ANN, cube(), "text", made(tmp_path), ABOUT)
    store.store.segments.wipe_segment(kept.name)
    store.store.segments.sweep()
    assert not list(store.store.segments.compacts.all())
