"""MemStore: a bundle is changed in one transaction, which is short, so that nothing of others waits for it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import event

from memos_vllm.cube.model import CubePatch, Placement
from memos_vllm.errors import BadRequest, Unprocessable
from memos_vllm.memstore import model
from memos_vllm.memstore.model import ARTIFACT, CONFIG, CUBE, ITEMS, Manifest, descriptor, digest_of
from memos_vllm.memstore.publish import _next, _sign
from memos_vllm.parametric.attached import AttachedEngine
from memos_vllm.vault.jobs import HEADS, Lane
from tests.adapters import small
from tests.bundles import ADMIN, HOURS, NAME, PUBLISHER


def plans_read(system, act):
    """How often an action reads the plans of the tenant."""
    seen = []

    def note(_connection, _cursor, statement, *_rest):
        seen.append("FROM plans" in statement)

    event.listen(system.database.engine, "before_cursor_execute", note)
    try:
        act()
    finally:
        event.remove(system.database.engine, "before_cursor_execute", note)
    return sum(seen)


def test_removing_cubes_reads_the_plans_once_however_many_there_are(bundler, system):
    many = {f"part {i}": [f"Text {i}."] for i in range(12)}
    bundler.publish(contents=many)
    bundler.install()
    bundler.publish("1.1.0", {"part 0": ["Text 0."], "part 1": ["Text 1."]})
    assert plans_read(system, bundler.update) == 1
    assert plans_read(system, lambda: bundler.store.uninstall(ADMIN, NAME)) == 1
    assert bundler.texts() == {}


def test_a_bundle_with_too_many_cubes_is_not_published(bundler, monkeypatch):
    monkeypatch.setattr("memos_vllm.memstore.publish.MOST_CUBES", 2)
    with pytest.raises(BadRequest, match="1 to 2 cubes"):
        bundler.publish(contents={f"part {i}": [f"Text {i}."] for i in range(3)})


def test_a_signed_bundle_with_too_many_cubes_is_not_installed(bundler):
    """A publisher whose program has no such limit."""
    line = json.dumps({"text": "A."}).encode() + b"\n"
    names = [f"part {i}" for i in range(model.MOST_CUBES + 1)]
    about = {"name": NAME, "version": "1.0.0", "licence": "MIT", "created": "2026-01-01T00:00:00Z"}
    config = json.dumps(about | {"cubes": [{"name": each} for each in names]}).encode()
    layers = [descriptor(line, ITEMS, **{CUBE: each}) for each in names]
    made = Manifest(artifact_type=ARTIFACT, config=descriptor(config, CONFIG), layers=layers)
    data = json.dumps(made.model_dump(mode="json")).encode()
    for blob in (config, line):
        bundler.registry.put_blob(NAME, blob)
    bundler.registry.put_manifest(NAME, "1.0.0", data)
    index = _next(None, NAME, timedelta(days=1), versions={"1.0.0": digest_of(data)})
    _sign(bundler.registry, bundler.key, index)
    with pytest.raises(Unprocessable, match="cubes"):
        bundler.install()
    assert bundler.texts() == {}


@pytest.mark.parametrize("placement", [Placement.STABLE, Placement.RETRIEVED])
def test_what_stands_in_every_prompt_is_a_job_for_the_engine(bundler, system, placement):
    """Whichever process approves, updates or rolls back: the server builds the KV."""
    is_placed = placement is Placement.STABLE

    def built():
        """Whether a job waits, which is then done."""
        job = system.jobs.claim(Lane.KV, "engine")
        assert job is None or (job.name, job.subject) == (HEADS, "acme")
        if job is not None:
            system.jobs.done(job)
        return job is not None

    bundler.cubes({"hours": HOURS})
    system.update(PUBLISHER, "hours", CubePatch(placement=placement))
    bundler.publish(contents={"hours": HOURS})
    bundler.install()
    assert not built(), "quarantined"
    bundler.approve()
    assert built() is is_placed
    bundler.publish("1.1.0", {"hours": ["Open on Sunday."]})
    bundler.update()
    assert built() is is_placed
    bundler.store.rollback(ADMIN, bundler.registry, NAME)
    assert built() is is_placed
    bundler.store.uninstall(ADMIN, NAME)
    assert not built()


class FakeServed:
    """A model whose adapters all fit."""

    max_rank, fingerprint = 8, "llama"

    def check(self, adapter):
        pass


def test_an_adapter_of_another_model_is_left_out_and_fetched_once_that_model_is_served(
    bundler, system
):
    served = FakeServed()
    system.attach_engine(AttachedEngine(served))
    bundler.publish(contents={"style": small(), "hours": HOURS})
    served.fingerprint = "qwen"
    done = bundler.install()
    assert "another model: llama; served is qwen" in done.skipped["style"]
    assert set(done.bundle.cubes) == {"hours"}
    assert done.bundle.gates == {}
    bundler.approve()
    served.fingerprint = "llama"
    done = bundler.update("1.0.0")
    assert not done.skipped
    assert done.bundle.gates == {"style": {}}, "its exam waits"
