"""The durable queue: a job runs once, again after a kill, later after an error, and is never lost."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from memos_vllm import metrics
from memos_vllm.cli.main import app
from memos_vllm.config.tree import JobsConfig
from memos_vllm.errors import IndexUnavailable, VaultUnavailable
from memos_vllm.learning.queue import JobQueue
from memos_vllm.vault import jobs
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import MAX_ATTEMPTS, READ, REMEMBER, JobStore, Lane, backoff_seconds
from memos_vllm.vault.turns import PendingTurns
from tests.conftest import principal
from tests.engine.harness import wait_for

ALICE = dataclasses.replace(principal("alice"), session="s")
QUICK = JobsConfig(poll_seconds=0.05)


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def store(database):
    return JobStore(database)


@pytest.fixture
def start(database_url):
    """Starts a queue as another process has it: with connections of its own."""
    started = []

    def start(handlers, config=QUICK):
        database = Database(database_url)
        queue = JobQueue(JobStore(database), config)
        queue.start(handlers)
        started.append((queue, database))
        return queue

    yield start
    for queue, database in started:
        queue.stop()
        database.dispose()


def no_pauses(monkeypatch):
    monkeypatch.setattr(jobs, "backoff_seconds", lambda attempts: 0.0)


def test_a_submitted_job_runs_once_and_leaves_no_row(store, start):
    ran = []
    queue = start({REMEMBER: ran.append, READ: ran.append})
    queue.submit(REMEMBER, "turn_1")
    queue.submit(READ, "cube:request")
    wait_for(lambda: store.counts() == {}, "the end of both jobs")
    assert sorted(ran) == ["cube:request", "turn_1"]


def test_a_job_submitted_twice_is_queued_once(store):
    store.add(REMEMBER, "turn_1")
    store.add(REMEMBER, "turn_1")
    store.add(READ, "turn_1")
    assert store.counts() == {("fast", "queued"): 1, ("slow", "queued"): 1}


def test_each_job_runs_once_though_two_processes_compete_for_all(store, start):
    ran, lock = Counter(), threading.Lock()

    def handler(subject):
        with lock:
            ran[subject] += 1

    for number in range(60):
        store.add(REMEMBER, f"turn_{number}")
    for _ in range(2):
        start({REMEMBER: handler}, JobsConfig(poll_seconds=0.05, workers=4))
    wait_for(lambda: store.counts() == {}, "the end of all jobs", 60)
    assert ran == Counter({f"turn_{number}": 1 for number in range(60)})


def test_the_oldest_job_is_claimed_first_and_lanes_do_not_wait_for_each_other(store):
    for subject in ("first", "second"):
        store.add(REMEMBER, subject)
    store.add(READ, "third")
    claimed = [store.claim(lane, "me").subject for lane in (Lane.FAST, Lane.SLOW, Lane.FAST)]
    assert claimed == ["first", "third", "second"]
    assert store.claim(Lane.FAST, "me") is None


KILLED = """
    import os, sys, time
    from memos_vllm.config.tree import JobsConfig
    from memos_vllm.learning.queue import JobQueue
    from memos_vllm.vault import jobs
    from memos_vllm.vault.database import Database

    jobs.LEASE_SECONDS = float(sys.argv[2])
    queue = JobQueue(jobs.JobStore(Database(sys.argv[1])), JobsConfig(poll_seconds=0.05))
    queue.start({"remember": lambda subject: os._exit(9)})
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_job_of_a_killed_process_is_run_by_another_after_its_lease(store, start, database_url):
    store.add(REMEMBER, "turn_1")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), database_url, "3"]
    died = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    killed = time.monotonic()
    assert died.returncode == 9, died.stderr
    assert store.counts() == {("fast", "running"): 1}
    assert store.claim(Lane.FAST, "me") is None, "the lease has not ended"
    ran = []
    start({REMEMBER: ran.append})
    wait_for(lambda: store.counts() == {}, "the end of the job")
    assert ran == ["turn_1"]
    assert time.monotonic() - killed > 1.5, "not before the lease ended"


@pytest.mark.slow
def test_a_job_that_takes_longer_than_a_lease_is_not_taken_from_its_process(
    store, start, monkeypatch
):
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.6)
    ran = []

    def handler(subject):
        ran.append(subject)
        time.sleep(2.0)

    for _ in range(2):
        start({REMEMBER: handler})
    store.add(REMEMBER, "turn_1")
    wait_for(lambda: ran and store.counts() == {}, "the end of the job")
    assert ran == ["turn_1"]


def test_a_holder_whose_lease_was_taken_changes_nothing_of_the_job(store, monkeypatch):
    store.add(REMEMBER, "turn_1")
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.0)
    slow = store.claim(Lane.FAST, "slow")
    monkeypatch.undo()
    fast = store.claim(Lane.FAST, "fast")
    assert fast.id == slow.id
    store.done(slow)
    store.retry(slow, "OSError")
    assert store.counts() == {("fast", "running"): 1}
    store.done(fast)
    assert store.counts() == {}


@pytest.mark.slow
def test_a_failed_job_is_tried_again_after_a_pause_that_grows(store):
    pauses = [backoff_seconds(attempts) for attempts in range(1, MAX_ATTEMPTS + 1)]
    assert pauses[:4] == [1.0, 4.0, 16.0, 64.0]
    assert max(pauses) == 3600.0
    store.add(REMEMBER, "turn_1")
    store.retry(store.claim(Lane.FAST, "me"), "OSError")
    assert store.counts() == {("fast", "queued"): 1}
    assert store.claim(Lane.FAST, "me") is None
    again = wait_for(lambda: store.claim(Lane.FAST, "me"), "the end of the pause", 10)
    assert (again.subject, again.attempts, again.error) == ("turn_1", 2, "OSError")


@pytest.mark.parametrize("error", [IndexUnavailable("away"), OSError("full"), KeyError("a bug")])
def test_a_job_is_set_aside_after_its_last_attempt_and_others_go_on(
    store, start, monkeypatch, caplog, error
):
    no_pauses(monkeypatch)
    ran = Counter()

    def handler(subject):
        ran[subject] += 1
        if subject == "bad":
            raise error

    counter = metrics.JOBS_SET_ASIDE.labels(REMEMBER)
    before = counter._value.get()
    queue = start({REMEMBER: handler}, JobsConfig(poll_seconds=0.05, workers=1))
    queue.submit(REMEMBER, "bad")
    queue.submit(REMEMBER, "good")
    wait_for(lambda: store.counts() == {("fast", "failed"): 1}, "the last attempt")
    assert ran == Counter(bad=MAX_ATTEMPTS, good=1)
    (failed,) = store.failed()
    assert (failed.subject, failed.error) == ("bad", type(error).__name__)
    assert counter._value.get() == before + 1
    assert "is set aside after 8 attempts" in caplog.text
    assert store.retry_failed() == 1
    wait_for(lambda: ran["bad"] == 2 * MAX_ATTEMPTS, "new attempts")


def test_a_job_that_ends_its_process_each_time_is_set_aside(store, monkeypatch):
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.0)
    store.add(REMEMBER, "deadly")
    store.add(REMEMBER, "harmless")
    for _ in range(MAX_ATTEMPTS):
        assert store.claim(Lane.FAST, "me").subject == "deadly"
    assert store.claim(Lane.FAST, "me").subject == "harmless"
    assert [(job.subject, job.error) for job in store.failed()] == [("deadly", "lease lost")]


def test_the_queue_keeps_no_message_of_an_error(database, store, start, monkeypatch):
    """A message may quote what a person said."""
    no_pauses(monkeypatch)

    def handler(subject):
        raise ValueError("The ZEBRA is striped.")

    start({REMEMBER: handler}).submit(REMEMBER, "turn_1")
    wait_for(store.failed, "the last attempt")
    with database.read() as session:
        rows = repr(session.execute(sa.text("SELECT * FROM jobs")).all())
    assert "ValueError" in rows
    assert "ZEBRA" not in rows


def test_a_submission_wakes_a_worker_at_once(store, start):
    ran = threading.Event()
    queue = start({REMEMBER: lambda subject: ran.set()}, JobsConfig(poll_seconds=60.0))
    time.sleep(0.5)  # the workers have found nothing, and wait
    queue.submit(REMEMBER, "turn_1")
    assert ran.wait(5.0)


def test_a_job_of_another_process_is_found_by_polling(store, start):
    ran = threading.Event()
    start({REMEMBER: lambda subject: ran.set()}, JobsConfig(poll_seconds=0.2))
    time.sleep(0.5)
    store.add(REMEMBER, "turn_1")
    assert ran.wait(5.0)


def test_stopping_lets_the_running_job_end_and_leaves_the_next_one_queued(store, start):
    begun, ended = threading.Event(), []

    def handler(subject):
        begun.set()
        time.sleep(0.5)
        ended.append(subject)

    queue = start({REMEMBER: handler}, JobsConfig(poll_seconds=0.05, workers=1))
    queue.submit(REMEMBER, "first")
    queue.submit(REMEMBER, "second")
    assert begun.wait(5.0)
    queue.stop()
    assert ended == ["first"]
    assert store.counts() == {("fast", "queued"): 1}


def test_a_vault_that_is_away_for_a_while_stops_no_worker(store, start, monkeypatch):
    real, away = JobStore.claim, threading.Event()
    away.set()

    def claim(self, lane, holder):
        if away.is_set():
            raise VaultUnavailable("away")
        return real(self, lane, holder)

    monkeypatch.setattr(JobStore, "claim", claim)
    ran = threading.Event()
    start({REMEMBER: lambda subject: ran.set()})
    store.add(REMEMBER, "turn_1")
    assert not ran.wait(0.3)
    away.clear()
    assert ran.wait(5.0)


def test_a_turn_and_its_job_are_stored_together_or_not_at_all(database, store, monkeypatch):
    turns = PendingTurns(database)
    turn = turns.add(ALICE, {"user": "Hello."})
    assert store.claim(Lane.FAST, "me").subject == turn

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(JobStore, "add_in", fail)
    with pytest.raises(OSError, match="full"):
        turns.add(ALICE, {"user": "Again."})
    assert turns.waiting() == [turn]


def test_the_command_line_lists_jobs_that_were_set_aside_and_queues_them_again(tmp_path):
    home = tmp_path / "home"
    file = tmp_path / "config.yaml"
    file.write_text(f"home: {home}\n")
    database = Database(f"sqlite:///{home / 'vault.sqlite'}")
    database.migrate()
    store = JobStore(database)
    store.add(REMEMBER, "turn_1")
    with database.write() as session:
        session.execute(sa.text("UPDATE jobs SET state = 'failed', error = 'OSError'"))

    def memos(*arguments):
        result = CliRunner().invoke(app, ["jobs", "failed", *arguments, "--config", str(file)])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    assert "turn_1" in memos()
    assert store.counts() == {("fast", "failed"): 1}, "a list changes nothing"
    assert "queued 1 jobs again" in memos("--retry")
    assert store.counts() == {("fast", "queued"): 1}
    assert json.loads(memos("--json")) == []
    database.dispose()
