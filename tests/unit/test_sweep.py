"""The sweep: expiry, decay and retention by policy; killed, repeated, and run twice at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import (
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    Placement,
    State,
)
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Role
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.learning.policy import set_policy
from memos_vllm.learning.sweep import DAY_US, SUBJECT, Sweep, counted
from memos_vllm.system import MemorySystem
from memos_vllm.vault.jobs import SWEEP, Lane
from memos_vllm.vault.tables import OwnerRow, VersionRow
from memos_vllm.vault.views import CubeFilter
from tests.conftest import freeze, make_config, principal

ALICE, BOB = principal("alice"), principal("bob")
ADMIN = principal("", role=Role.ADMIN)
LONG_AGO = datetime.now(UTC) - timedelta(days=100)


def keep(system, *items, who=ALICE, **meta):
    content = [item if isinstance(item, Item) else Item(text=item) for item in items]
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))
    return system.create(who, [new])[0].meta.id


def age(system, days, cube=None):
    """Make a cube, or all, so many days older, with its versions."""
    where = "" if cube is None else " WHERE {} = :cube"
    values = {"age": round(days * DAY_US), "cube": cube}
    with system.database.write() as session:
        session.execute(
            sa.text(
                "UPDATE cubes SET created_us = created_us - :age, updated_us = updated_us - :age"
                + where.format("id")
            ),
            values,
        )
        session.execute(
            sa.text("UPDATE versions SET created_us = created_us - :age" + where.format("cube_id")),
            values,
        )


def sweep(system, **more):
    return dict(counted(Sweep(system).run(**more)))


def texts(system, ref, who=ALICE):
    return [item.text for item in system.vault.get(who, ref).items]


def state(system, ref, who=ALICE):
    return system.vault.get(who, ref).meta.state


def files_with(system, text):
    """Files under home that hold a text."""
    root = system.config.root
    return [
        path.name
        for path in root.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes() and "vault.sqlite" not in path.name
    ]


# -- expiry and decay ---------------------------------------------------------------------------------


def test_nothing_happens_by_default(system):
    keep(system, "Soup is good.", name="idle")
    assert sweep(system, at_us=now_us() + 10_000 * DAY_US) == {}


def test_a_cube_past_its_end_expires_and_is_deleted_when_the_policy_says(system):
    keep(system, "Soup.", name="soup", ttl_seconds=60)
    frozen = keep(system, "Evidence.", name="held", ttl_seconds=60)
    freeze(system, frozen)
    later = now_us() + 3600 * 1_000_000
    assert sweep(system, at_us=later, dry_run=True) == {"expired": 1}
    assert state(system, "soup") is State.ACTIVATED
    assert sweep(system, at_us=later) == {"expired": 1}
    assert state(system, "soup") is State.EXPIRED
    assert sweep(system, at_us=later) == {}
    set_policy(system, ADMIN, {"expired_days": 7})
    assert sweep(system, at_us=later + 6 * DAY_US) == {}
    assert sweep(system, at_us=later + 8 * DAY_US) == {"deleted": 1}
    with pytest.raises(NotFound):
        texts(system, "soup")
    assert texts(system, "held") == ["Evidence."]


def test_an_idle_cube_is_archived_and_can_be_activated_again(tmp_path):
    fading = MemorySystem(make_config(tmp_path, lifecycle={"archive_after_days": 30})).open()
    read = keep(fading, "Bread is good.", name="read")
    keep(fading, "Soup is good.", name="idle")
    keep(fading, "Tea is good.", name="placed", placement=Placement.STABLE)
    keep(fading, "Salt is good.", name="held", priority=1)
    keep(fading, "Oil is good.", who=ADMIN, shared=True, name="ours")
    claim = Claim(subject="alice", sources=["m1"])
    hiking = Item(
        type=ItemType.FACT, text="alice went hiking", time=LONG_AGO, source="m1", claim=claim
    )
    Consolidator(fading).take(ALICE, [hiking])
    assert sweep(fading, at_us=now_us() + 29 * DAY_US) == {}
    later = now_us() + 31 * DAY_US
    with fading.database.write() as session:
        session.execute(
            sa.text("UPDATE cubes SET last_read_us = :at WHERE id = :id"),
            {"at": later - DAY_US, "id": read},
        )
    assert sweep(fading, at_us=later) == {"archived": 1}
    assert state(fading, "idle") is State.ARCHIVED
    found = fading.search(ALICE, "soup", None, 10).found
    assert "Soup is good." not in [each.recalled.item.text for each in found]
    fading.update(ALICE, "idle", CubePatch(state=State.ACTIVATED))
    assert fading.search(ALICE, "soup", None, 1).found[0].recalled.item.text == "Soup is good."
    for name in ("read", "placed", "held", "facts#1"):
        assert state(fading, name) is State.ACTIVATED
    assert state(fading, "ours", ADMIN) is State.ACTIVATED
    set_policy(fading, ADMIN, {"archive_after_days": 0})
    assert sweep(fading, at_us=now_us() + 99 * DAY_US) == {}
    fading.close()


# -- retention ----------------------------------------------------------------------------------------


def test_old_items_leave_their_cube_and_every_file(system):
    young = Item(text="A young canary.", time=datetime.now(UTC))
    old = Item(text="An old canary XYZZY.", time=LONG_AGO)
    cube = keep(system, old, young, name="birds")
    system.update(ALICE, cube, CubePatch(tags=["x"]))
    age(system, 99)
    system.update(
        ALICE, cube, CubePatch(append=[Item(text="Another young one.", time=datetime.now(UTC))])
    )
    assert sweep(system) == {}
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    assert sweep(system, dry_run=True) == {"items": 1}
    assert len(texts(system, "birds")) == 3
    assert sweep(system) == {"items": 1}
    assert texts(system, "birds") == ["A young canary.", "Another young one."]
    assert len(system.vault.history(ALICE, cube)) == 1
    assert files_with(system, "XYZZY") == []
    moment = to_datetime(now_us() - DAY_US)
    past = system.past.get(ALICE, cube, round(moment.timestamp() * 1e6))
    assert "XYZZY" not in str(past.items)
    assert sweep(system) == {}


def test_a_cube_with_nothing_else_is_deleted_and_what_was_said_again_stays(system):
    keep(system, Item(text="Old.", time=LONG_AGO), name="old")
    keep(system, Item(text="Old, without a time."), name="untimed")
    again = Claim(subject="alice", sources=["m"], last_seen=datetime.now(UTC))
    keep(system, Item(text="Said again.", time=LONG_AGO, claim=again), name="again")
    keep(system, "Bob's.", who=BOB, name="his")
    keep(system, "Ours.", who=ADMIN, shared=True, name="ours")
    age(system, 99)
    keep(system, Item(text="Imported, with an old time.", time=LONG_AGO), name="imported")
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    assert sweep(system) == {"deleted": 4}
    names = {h.name for h in system.views.page(ADMIN, CubeFilter())[0]}
    assert names == {"again", "imported"}
    actions = [e for e in system.audit.read(ADMIN, 0, 1000) if e["action"] == "cube.delete"]
    assert {each["key"] if "key" in each else each["key_id"] for each in actions} == {"sweep"}


def test_rules_match_by_kind_placement_and_tag(system):
    keep(system, "chat", name="chat", tags=["chat"])
    keep(system, "stable", name="stable", placement=Placement.STABLE)
    keep(system, "rest", name="rest")
    other = principal("alice", tenant="other")
    keep(system, "theirs", who=other, name="theirs", tags=["chat"])
    age(system, 99)

    def swept(rule):
        set_policy(system, ADMIN, {"retention": [{"max_days": 30, **rule}]})
        return sorted(
            system.vault.get(ALICE, step.cube).meta.name for step in Sweep(system).run(dry_run=True)
        )

    assert swept({"tag": "chat"}) == ["chat"]
    assert swept({"placement": "stable"}) == ["stable"]
    assert swept({"placement": "retrieved"}) == ["chat", "rest"]
    assert swept({"kind": "parametric"}) == []
    assert swept({"kind": "plaintext"}) == ["chat", "rest", "stable"]
    assert swept({"max_days": 200}) == []


def test_a_rule_can_archive(system):
    keep(system, "Soup.", name="soup")
    age(system, 99)
    keep(system, "Tea.", name="tea")
    set_policy(system, ADMIN, {"retention": [{"max_days": 30, "action": "archive"}]})
    assert sweep(system) == {"archived": 1}
    assert (state(system, "soup"), state(system, "tea")) == (State.ARCHIVED, State.ACTIVATED)
    assert sweep(system) == {}


def test_replaced_versions_end_and_the_one_of_the_moment_stays(system):
    cube = keep(system, Item(text="One."), name="n")
    age(system, 60, cube)
    system.update(ALICE, cube, CubePatch(payload=ExplicitPayload(content=[Item(text="Two.")])))
    age(system, 60, cube)
    system.update(ALICE, cube, CubePatch(payload=ExplicitPayload(content=[Item(text="Three.")])))
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    assert sweep(system) == {"versions": 1}
    assert [v.sequence for v in system.vault.history(ALICE, cube)] == [3, 2]
    assert texts(system, "n") == ["Three."]
    with system.database.read() as session:
        stored = session.scalar(sa.select(sa.func.sum(VersionRow.payload_bytes)))
        assert (
            session.scalar(sa.select(sa.func.sum(OwnerRow.text_bytes))) == stored
        )  # the quota's count
    assert sweep(system) == {}


def test_a_frozen_cube_keeps_all_of_it(system):
    cube = keep(system, Item(text="Evidence.", time=LONG_AGO), name="held")
    system.update(ALICE, cube, CubePatch(tags=["x"]))
    freeze(system, cube)
    age(system, 99)
    before = (system.vault.get(ALICE, cube), system.vault.history(ALICE, cube))
    policy = {"retention": [{"max_days": 1}], "expired_days": 0, "archive_after_days": 1}
    set_policy(system, ADMIN, policy)
    assert sweep(system, at_us=now_us() + 999 * DAY_US) == {}
    assert (system.vault.get(ALICE, cube), system.vault.history(ALICE, cube)) == before


def test_old_items_of_an_expired_cube_leave_it_and_it_stays_expired(system):
    items = [Item(text="Old.", time=LONG_AGO), Item(text="Young.", time=datetime.now(UTC))]
    cube = keep(system, *items, name="n")
    system.update(ALICE, cube, CubePatch(state=State.EXPIRED))
    age(system, 99)
    system.update(ALICE, cube, CubePatch(tags=["x"]))
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    assert sweep(system) == {"items": 1}
    assert (texts(system, "n"), state(system, "n")) == (["Young."], State.EXPIRED)


def test_more_cubes_than_a_page_and_a_cube_that_cannot_be_changed(system, tmp_path):
    new = [NewCube(payload=ExplicitPayload(content=[Item(text=f"t{n}")])) for n in range(230)]
    made = system.create(ALICE, new)
    age(system, 99)
    digest = system.vault.history(ALICE, made[3].meta.id)[0].payload_sha256
    (file,) = (tmp_path / "payloads").rglob(f"{digest}.json")
    file.write_bytes(b"{}")
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    assert sweep(system) == {"deleted": 229}


# -- durable, and once --------------------------------------------------------------------------------

CHILD = """
import json, os, signal, sys
from memos_vllm.learning.sweep import Sweep
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from pathlib import Path
home, where, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
system = MemorySystem(make_config(home)).open()
left = [number]
def dying(call):
    def wrapped(*args, **more):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **more)
    return wrapped
part, name = where.split(".")
setattr(getattr(system, part), name, dying(getattr(getattr(system, part), name)))
job = Sweep(system).alone()
assert job is not None
for step in Sweep(system).run():
    pass
"""


@pytest.mark.parametrize(("where", "number"), [("vault.delete", 1), ("forgotten.purge", 0)])
def test_a_killed_sweep_goes_on_and_does_nothing_twice(system, tmp_path, where, number):
    for n in range(3):
        keep(system, Item(text=f"Old XYZZY{n}.", time=LONG_AGO), name=f"old{n}")
    items = [Item(text="Old XYZZY.", time=LONG_AGO), Item(text="Young.", time=datetime.now(UTC))]
    mixed = keep(system, *items, name="mixed")
    age(system, 99)
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), where, str(number)], check=False
    )
    assert child.returncode == -signal.SIGKILL
    assert Sweep(system).alone() is None, "the dead process holds its lease"
    with system.database.write() as session:
        session.execute(sa.text("UPDATE jobs SET leased_until_us = 0 WHERE name = 'sweep'"))
    assert Sweep(system).alone() is not None
    sweep(system)
    while (job := system.jobs.claim(Lane.FAST, "test")) is not None:
        system.forgotten.purge(job.subject)
        system.jobs.done(job)
    assert texts(system, "mixed") == ["Young."]
    assert len(system.vault.history(ALICE, mixed)) == 1
    system.indexer.drain()
    assert files_with(system, "XYZZY") == []
    assert system.audit.verify(ADMIN) == []
    assert sweep(system) == {}


def test_two_sweeps_at_once_do_each_thing_once(system, config):
    for n in range(30):
        keep(system, Item(text=f"t{n}", time=LONG_AGO), name=f"old{n}")
    age(system, 99)
    set_policy(system, ADMIN, {"retention": [{"max_days": 30}]})
    other = MemorySystem(config).open()
    totals = []
    threads = [
        threading.Thread(target=lambda s=each: totals.append(sweep(s))) for each in (system, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(total.get("deleted", 0) for total in totals) == 30
    deleted = [e for e in system.audit.read(ADMIN, 0, 1000) if e["action"] == "cube.delete"]
    assert len(deleted) == 30
    other.close()


def test_one_process_leases_the_sweep_and_a_failed_one_is_queued_again(system, config):
    other = MemorySystem(config).open()
    job = Sweep(system).alone()
    assert job is not None
    assert Sweep(other).alone() is None
    with system.database.write() as session:
        system.jobs.fail_in(session, job)
    again = Sweep(other).alone()
    assert (again.name, again.subject) == (SWEEP, SUBJECT)
    other.jobs.done(again)
    other.close()


def test_the_command_lists_and_sweeps(system, config, tmp_path):
    keep(system, Item(text="Old.", time=LONG_AGO), name="old", who=principal("alice", "local"))
    age(system, 99)
    set_policy(system, principal("", "local", Role.ADMIN), {"retention": [{"max_days": 30}]})
    system.close()
    file = tmp_path / "memos.yaml"
    file.write_text(json.dumps(json.loads(config.model_dump_json(include={"home", "embedder"}))))
    runner = CliRunner()
    listed = runner.invoke(app, ["sweep", "--dry-run", "--config", str(file)])
    assert listed.exit_code == 0, listed.output
    assert "deleted local cube_" in listed.output
    swept = runner.invoke(app, ["sweep", "--json", "--config", str(file)])
    assert json.loads(swept.stdout) == {"deleted": 1}
    again = runner.invoke(app, ["sweep", "--json", "--config", str(file)])
    assert json.loads(again.stdout) == {}
