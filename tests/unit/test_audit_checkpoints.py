"""Checkpoints of the audit log: what a restart reads, what it finds, and their copies outside."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa

from memos_vllm import metrics
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import ConfigError
from memos_vllm.governance import audit_record
from memos_vllm.governance.checkpoints import Checkpoint, CheckpointFiles, read_lines
from memos_vllm.governance.merkle import Frontier
from memos_vllm.system import MemorySystem
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditTreeRow
from tests.conftest import make_config
from tests.engine.harness import wait_for
from tests.unit.test_audit import ADMIN, ALICE, add, run

MANY = 200_000


class Log:
    """One database and folder, opened as by one process after another."""

    def __init__(self, url, home, **options):
        self.url, self.home, self.options = url, home, options
        self.systems = []

    def open(self, **options):
        audit_options = {"checkpoint_seconds": 3600} | self.options | options
        config = make_config(
            self.home, database={"url": self.url}, governance={"audit": audit_options}
        )
        system = MemorySystem(config).open()
        self.systems.append(system)
        return system

    def restarted(self, **options):
        self.close()
        return self.open(**options)

    def close(self):
        while self.systems:
            self.systems.pop().close()


@pytest.fixture
def log(database_url, tmp_path):
    made = Log(database_url, tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def rows_read():
    """Number of audit records that were read from the database, so far."""
    count = [0]

    def loaded(*_):
        count[0] += 1

    sa.event.listen(AuditEntryRow, "load", loaded)
    yield lambda: count[0]
    sa.event.remove(AuditEntryRow, "load", loaded)


def write_many(system, count):
    """Records that a checkpoint covers, as an older process left them, at once."""
    columns = [*audit_record.FIELDS, "mac", "leaf"]
    series = {
        "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT :count) SELECT n FROM s",
        "postgresql": "SELECT n FROM generate_series(1, :count) AS s(n)",
    }[system.database.engine.dialect.name]
    values = "'old', n, 'acme', n, 'test', '', '', '', 'cube.create', 'x', '{}', 'k', 'm', n - 1"
    fields = {
        "shard": "old",
        "tenant": "acme",
        "key_id": "test",
        "person": "",
        "owner": "",
        "request_id": "",
    }
    fields |= {"action": "cube.create", "object": "x", "detail": {}, "mac_key": "k", "mac": "m"}
    tree = Frontier()
    for number in range(1, count + 1):
        tree.append(audit_record.leaf_of(fields | {"number": number, "at_us": number}))
    with system.database.write() as session:
        session.execute(
            sa.text(
                f"INSERT INTO audit_entries ({', '.join(columns)}) SELECT {values} FROM ({series}) t"
            ),
            {"count": count},
        )
        session.add(AuditTreeRow(tenant="acme", sealed=count, nodes="", delivered=0))
    key = system.database.audit_keys.current
    checkpoint = Checkpoint.signed(key, "acme", count, tree.root.hex(), now_us())
    system.audit.trees.keep([(tree, checkpoint)])
    CheckpointFiles(system.config.checkpoints_path).append(checkpoint)


def test_a_checkpoint_after_a_restart_reads_the_new_records_alone(log, rows_read, caplog):
    write_many(log.open(), MANY)
    system = log.restarted()
    add(system, "after the restart")
    system.audit.checkpoint()
    assert [each.size for each in system.audit.checkpoints(ADMIN.tenant)] == [MANY, MANY + 1]
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
    assert system.audit.verify(ADMIN, from_checkpoint=True) == []
    assert system.audit.newest(ADMIN.tenant).size == MANY + 1
    assert 1 <= rows_read() <= 10


def alarms(kind):
    return metrics.AUDIT_ALARMS.labels(kind)._value.get()


def five(log):
    system = log.open()
    for number in range(5):
        add(system, f"n{number}")
    system.audit.checkpoint()
    return system


ATTACKS = {
    "missing": ["DELETE FROM audit_entries WHERE leaf >= 3", "UPDATE audit_trees SET sealed = 3"],
    "state": ["UPDATE audit_trees SET nodes = 'ff'"],
    "changed": [
        "UPDATE audit_entries SET object = 'x' WHERE leaf = 1",
        "UPDATE audit_trees SET nodes = '', checkpoint = NULL",
    ],
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_restart_finds_a_log_that_is_not_the_one_of_its_checkpoint(log, kind):
    five(log)
    system = log.restarted()
    run(system, *ATTACKS[kind])
    before = alarms(kind)
    system.audit.checkpoint()
    assert alarms(kind) == before + 1
    add(system, "later")
    system.audit.checkpoint()
    assert alarms(kind) == before + 1, "one alarm, not one a checkpoint"
    assert bool(system.audit.verify(ADMIN)) == (kind != "state")


def test_a_running_server_finds_that_its_log_becomes_shorter(log):
    system = five(log)
    before = alarms("missing")
    run(system, *ATTACKS["missing"])
    system.audit.checkpoint()
    assert alarms("missing") > before
    assert system.audit.health()


def test_no_checkpoint_covers_a_log_with_a_gap(log):
    system = log.open()
    for number in range(3):
        add(system, f"n{number}")
    system.audit.seal()
    run(system, "DELETE FROM audit_entries WHERE leaf = 1")
    before = alarms("missing")
    for _ in range(2):
        system.audit.checkpoint()
    assert alarms("missing") == before + 1
    assert [each.size for each in system.audit.checkpoints(ADMIN.tenant)] == [1]
    assert system.audit.verify(ADMIN)


def test_a_lost_state_is_built_again(log, rows_read):
    five(log)
    system = log.restarted()
    run(system, "UPDATE audit_trees SET nodes = '', checkpoint = NULL")
    add(system, "later")
    system.audit.checkpoint()
    assert system.audit.checkpoints(ADMIN.tenant)[-1].size == 6
    assert system.audit.verify(ADMIN) == []


def test_two_processes_write_checkpoints_of_one_log(log):
    first, second = log.open(), log.open()
    for number in range(6):
        system = (first, second)[number % 2]
        add(system, f"n{number}")
        system.audit.checkpoint()
    (first, second)[0].audit.checkpoint()
    assert {each.size for each in first.audit.checkpoints(ADMIN.tenant)} >= {5, 6}
    assert first.audit.verify(ADMIN) == second.audit.verify(ADMIN) == []


def test_a_checkpoint_that_cannot_be_written_is_written_later(log, monkeypatch):
    system = five(log)
    folder = log.home / "audit"
    folder.rename(log.home / "gone")
    folder.write_text("not a folder")
    add(system, "later")
    with pytest.raises(ConfigError):
        system.audit.checkpoint()
    folder.unlink()
    (log.home / "gone").rename(folder)
    system.audit.checkpoint()
    assert system.audit.checkpoints(ADMIN.tenant)[-1].size == 6
    assert system.audit.verify(ADMIN) == []


def test_a_line_that_a_loss_of_power_cut_costs_itself(log):
    system = five(log)
    (file,) = (log.home / "audit").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    add(system, "later")
    system.audit.checkpoint()
    assert [each.size for each in system.audit.checkpoints(ADMIN.tenant)] == [5, 6]
    assert system.audit.verify(ADMIN) == []


def test_many_records_bring_a_checkpoint_before_its_time(log):
    system = log.open(checkpoint_records=5)
    for number in range(5):
        add(system, f"n{number}")
    wait_for(lambda: system.audit.checkpoints(ADMIN.tenant), "a checkpoint", 30)


class Receiver(ThreadingHTTPServer):
    """Another machine: keeps what it is sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.paths, self.tokens, self.status = [], [], [], 204
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/log"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 204:
            self.server.bodies.append(body)
            self.server.paths.append((self.command, self.path))
            self.server.tokens.append(self.headers.get("authorization"))
        self.send_response(self.server.status)
        self.end_headers()

    do_PUT = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


def test_checkpoints_are_sent_outside_and_again_after_a_failure(log, receiver):
    failures = metrics.AUDIT_CHECKPOINT_FAILURES.labels("url")
    system = log.open(checkpoint_url=receiver.url, checkpoint_token="word")
    add(system, "one")
    receiver.status = 500
    before = failures._value.get()
    system.audit.checkpoint()
    assert not system.audit.deliver()
    assert failures._value.get() == before + 1
    assert any("no checkpoint at the URL" in each for each in system.audit.health())
    receiver.status = 204
    system = log.restarted(checkpoint_url=receiver.url, checkpoint_token="word")
    system.audit.checkpoint()
    assert system.audit.deliver()
    assert system.audit.health() == []
    assert receiver.tokens[0] == "Bearer word"
    sent = read_lines(receiver.bodies)
    assert [each.size for each in sent] == [1]
    add(system, "two")
    system.audit.checkpoint()
    assert system.audit.deliver()
    sent = read_lines(receiver.bodies)
    assert [each.size for each in sent] == [1, 2]
    assert system.audit.verify(ADMIN, checkpoints=sent) == []
    run(system, "DELETE FROM audit_entries WHERE leaf = 1")
    assert system.audit.verify(ADMIN, checkpoints=sent)


def test_a_store_of_objects_takes_each_checkpoint_under_a_name_of_its_own(log, receiver):
    system = log.open(checkpoint_url=receiver.url, checkpoint_method="PUT")
    for number in range(2):
        add(system, f"n{number}")
        system.audit.checkpoint()
        assert system.audit.deliver()
    assert {method for method, _ in receiver.paths} == {"PUT"}
    assert len({path for _, path in receiver.paths}) == 2


def test_a_server_that_is_away_stops_nothing(log):
    system = log.open(checkpoint_url="http://127.0.0.1:9/", checkpoint_seconds=0.05)
    add(system, "one")
    wait_for(lambda: system.audit.checkpoints(ADMIN.tenant), "a checkpoint", 30)
    assert system.audit.verify(ADMIN) == []
    assert [each["action"] for each in system.audit.read(ADMIN)] == ["cube.create"]


@pytest.mark.parametrize("url", ["http://example.com/", "file:///x", "example.com", "https://"])
def test_a_url_in_the_clear_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="https"):
        make_config(tmp_path, governance={"audit": {"checkpoint_url": url}})


def test_an_upgrade_continues_the_trees_of_the_older_version(log):
    from tests.unit.test_vault_migration import downgrade

    system = five(log)
    downgrade(system, "0009")
    system.database.migrate()
    add(system, "after the upgrade", ALICE)
    system = log.restarted()
    system.audit.checkpoint()
    assert system.audit.checkpoints(ADMIN.tenant)[-1].size == 6
    assert system.audit.verify(ADMIN) == []
