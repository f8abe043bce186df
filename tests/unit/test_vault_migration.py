"""Upgrades with jobs in flight: each job of the old schema runs with the new code."""

from __future__ import annotations

import json
import sqlite3

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.system import MemorySystem
from memos_vllm.vault.database import alembic_config
from memos_vllm.vault.jobs import Lane
from memos_vllm.vault.legacy_jobs import take_over
from memos_vllm.vault.transform_rows import JobState
from memos_vllm.vault.views import CubeFilter
from tests.conftest import make_config, principal
from tests.engine.harness import wait_for
from tests.unit.test_remember import ALICE, body, remembered

OLD_TABLE = """CREATE TABLE {schema}workflow_status (
    workflow_uuid TEXT PRIMARY KEY, status TEXT, name TEXT, queue_name TEXT, inputs TEXT,
    created_at BIGINT NOT NULL
)"""
OLD_JOBS = [
    ("read:cube_1:r:with:colons:0", "ENQUEUED"),
    ("read:cube_2:r-2:0", "PENDING"),
    ("read:cube_2:r-2:1764000000", "ENQUEUED"),
    ("read:cube_3:r-3:0", "SUCCESS"),
    ("read:cube_4:r-4:0", "ERROR"),
    ("remember:turn_1:0", "ENQUEUED"),
]
WAITING = ["cube_1:r:with:colons", "cube_2:r-2"]


def downgrade(system, revision):
    """The database as the release with this revision left it."""
    config = alembic_config()
    with system.database.engine.connect() as plain:
        connection = plain.execution_options(memos_writes=True)
        with connection.begin():
            config.attributes["connection"] = connection
            alembic.command.downgrade(config, revision)


def old_sqlite(path, rows=OLD_JOBS):
    """A job database of version 0.1, with the columns of DBOS that matter."""
    with sqlite3.connect(path) as connection:
        connection.execute(OLD_TABLE.format(schema=""))
        connection.executemany(
            "INSERT INTO workflow_status VALUES (?, ?, 'read', 'memos-slow', '[]', ?)",
            [(identifier, status, number) for number, (identifier, status) in enumerate(rows)],
        )
    connection.close()


def taken_over(system):
    return [job.subject for job in iter(lambda: system.jobs.claim(Lane.SLOW, "test"), None)]


def insert_transform(session, identifier, state, cube):
    session.execute(
        sa.text(
            "INSERT INTO transforms (id, tenant, person, role, key_id, kind, state, request, "
            "progress, report, made, created_us, seen_us) VALUES (:id, 'acme', 'alice', 'writer', "
            "'test', 'distill', :state, '{}', '{}', NULL, NULL, :moment, :moment)"
        ),
        {"id": identifier, "state": state, "moment": now_us()},
    )
    session.execute(
        sa.text("INSERT INTO transform_sources (transform_id, cube_id) VALUES (:id, :cube)"),
        {"id": identifier, "cube": cube},
    )


def test_every_job_in_flight_of_version_0_1_runs_with_the_new_queue(database_url, tmp_path):
    config = make_config(
        tmp_path,
        database={"url": database_url},
        jobs={"url": f"sqlite:///{tmp_path / 'old-jobs.sqlite'}"},
    )
    system = MemorySystem(config).open()
    new = NewCube(meta=NewMeta(name="notes"), payload=ExplicitPayload(content=[Item(text="One.")]))
    cube = system.create(ALICE, [new])[0].meta.id
    downgrade(system, "0004")
    with system.database.write() as session:
        session.execute(sa.text("DELETE FROM settings WHERE key = 'legacy_jobs_taken_over'"))
        turn = {"session": "s", "key": "test", "persona": None, **body("Survives.")}
        session.execute(
            sa.text(
                "INSERT INTO pending_turns (id, tenant, person, body, created_us) "
                "VALUES ('turn_1', 'acme', 'alice', :body, :moment)"
            ),
            {"body": json.dumps(turn), "moment": now_us()},
        )
        for state in ("queued", "running", "done"):
            insert_transform(session, f"job_{state}", state, cube)
    system.close()
    old_sqlite(tmp_path / "old-jobs.sqlite")

    system = MemorySystem(config).open()
    read = []
    rememberer = Rememberer(system, JobQueue(system.jobs, config.jobs))
    rememberer._read = read.append
    rememberer.start()
    try:
        wait_for(lambda: system.turns.waiting() == [], "the turn becoming memory", 60)
        wait_for(lambda: len(read) == 2, "the read jobs", 60)
        assert remembered(system)["chat-s#1"] == ["Survives.", "I see."]
        assert sorted(read) == WAITING
        claimed = [system.transforms.claim() for _ in range(2)]
        assert {job.id for job in claimed} == {"job_queued", "job_running"}
        assert {job.sources for job in claimed} == {(cube,)}, "no source is lost"
        assert system.transforms.claim() is None
        for job in claimed:
            assert system.transforms.end(job.id, JobState.DONE, {}, None)
        wait_for(lambda: system.jobs.counts() == {}, "the end of all jobs")
    finally:
        rememberer.stop()
        system.close()


def test_the_old_job_database_beside_the_vault_is_taken_over_once(tmp_path):
    old_sqlite(tmp_path / "jobs.sqlite")
    config = make_config(tmp_path)
    for expected in (WAITING, []):
        system = MemorySystem(config).open()
        jobs = taken_over(system)
        assert jobs == expected
        with system.database.write() as session:
            session.execute(sa.text("DELETE FROM jobs"))
        system.close()


def test_the_old_job_database_in_the_vault_s_postgres_is_taken_over(tmp_path, postgres_url):
    url = postgres_url()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA dbos")
        connection.execute(OLD_TABLE.format(schema="dbos."))
        for number, (identifier, status) in enumerate(OLD_JOBS):
            connection.execute(
                "INSERT INTO dbos.workflow_status VALUES (%s, %s, 'read', 'memos-slow', '[]', %s)",
                (identifier, status, number),
            )
    system = MemorySystem(make_config(tmp_path, database={"url": url})).open()
    assert taken_over(system) == WAITING
    system.close()


def test_without_an_old_job_database_none_is_made(tmp_path):
    system = MemorySystem(make_config(tmp_path)).open()
    assert system.jobs.counts() == {}
    system.close()
    assert not (tmp_path / "jobs.sqlite").exists()


@pytest.mark.parametrize("damage", [b"not a database", b""])
def test_an_old_job_database_that_cannot_be_read_stops_no_start(tmp_path, caplog, damage):
    (tmp_path / "jobs.sqlite").write_bytes(damage * 100)
    system = MemorySystem(make_config(tmp_path)).open()
    assert system.jobs.counts() == {}
    assert ("is not taken over" in caplog.text) == bool(damage)
    if damage:
        (tmp_path / "jobs.sqlite").unlink()
        old_sqlite(tmp_path / "jobs.sqlite")
        assert take_over(system.database, system.config.legacy_jobs_url) == 2
    system.close()


def test_a_downgrade_and_an_upgrade_keep_what_waits(database_url, tmp_path):
    system = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    turn = system.turns.add(principal("alice"), body("Hello."))
    downgrade(system, "0004")
    assert "jobs" not in sa.inspect(system.database.engine).get_table_names()
    system.database.migrate()
    assert system.jobs.claim(Lane.FAST, "test").subject == turn
    system.close()


def test_versions_from_before_headers_are_read_at_a_past_moment(database_url, tmp_path):
    system = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    new = NewCube(
        meta=NewMeta(name="n", tags=["x"]), payload=ExplicitPayload(content=[Item(text="Tea.")])
    )
    cube = system.create(ALICE, [new])[0].meta.id
    downgrade(system, "0009")
    system.database.migrate()
    moment = now_us()
    header = system.past.page(ALICE, moment, CubeFilter())[0][0]
    assert (header.id, header.name, header.tags) == (cube, "n", ["x"])
    assert [item.text for item in system.past.get(ALICE, cube, moment).items] == ["Tea."]
    system.update(ALICE, cube, CubePatch(tags=["y"]))
    assert (
        system.past.get(ALICE, cube, moment).meta.version
        != system.past.get(ALICE, cube, now_us()).meta.version
    )
    system.close()
