"""Reads of memory by prompts: on the disk before the reply, in the audit log whatever happens."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
from unittest import mock

import pytest

from memos_vllm.engine.gateway import EngineCall, InFlight, _watched
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import AuditUnavailable, VaultUnavailable
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.principal import Role
from memos_vllm.governance.read_journal import ReadJournal
from memos_vllm.system import MemorySystem
from memos_vllm.vault.audit_reads import read_of
from memos_vllm.vault.plans import PlanStore
from tests.conftest import make_config, principal
from tests.engine.harness import wait_for
from tests.unit.test_audit import ADMIN
from tests.unit.test_pipeline import ALICE, FakeExchange, ask, know, make_pipeline


def reads(system):
    records = system.audit.read(ADMIN, limit=1000)
    return [each for each in records if each["action"] == "memory.read"]


def files(system):
    folder = system.config.root / "audit_reads"
    return [path.read_bytes() for path in folder.glob("*.reads")]


class WatchingExchange(FakeExchange):
    """An engine that looks at the journal when its first token would be sent."""

    def __init__(self, system):
        super().__init__()
        self.system, self.seen = system, []

    async def answer(self, chat, messages):
        async def outputs():
            yield "token"

        call = EngineCall(recorded=chat.recorded)
        async for _ in _watched(outputs(), call, InFlight()):
            self.seen = [
                json.loads(line) for each in files(self.system) for line in each.splitlines()
            ]
        return await super().answer(chat, messages)


@pytest.mark.parametrize("required", [False, True])
def test_the_read_is_on_the_disk_before_the_first_token_and_once_in_the_log(tmp_path, required):
    config = make_config(tmp_path, governance={"audit": {"required": required}})
    system = MemorySystem(config).open()
    try:
        cube = know(system, "The boat is blue.")
        exchange = WatchingExchange(system)
        ask(make_pipeline(system), "Which colour has the boat?", exchange)
        (entry,) = exchange.seen
        used = f"{cube.meta.id}@{cube.meta.version}"
        assert (entry["person"], entry["request_id"], entry["cubes"]) == ("alice", "r-1", [used])
        (record,) = reads(system)
        assert record["detail"] == {"cubes": [used]}
        system.audit.reads.recover()
        assert len(reads(system)) == 1
        assert b"".join(files(system)) == b"", "names do not stay in the journal"
    finally:
        system.close()
    assert not list((tmp_path / "audit_reads").iterdir())


def _killed(home):
    system = MemorySystem(make_config(home)).open()
    know(system, "The boat is blue.")
    with mock.patch.object(
        PlanStore, "put", side_effect=lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    ):
        # As the engine does, it sends no token before the journal is on the disk.
        ask(make_pipeline(system), "Which colour has the boat?", WatchingExchange(system))


def test_a_kill_after_the_reply_loses_no_read(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    system = MemorySystem(make_config(tmp_path)).open()
    try:
        (record,) = reads(system)
        assert (record["person"], record["key_id"], record["request_id"]) == (
            "alice",
            "test",
            "r-1",
        )
        assert record["detail"]["recovered"] is True
        assert system.audit.verify(ADMIN) == []
        assert files(system) == []
    finally:
        system.close()


def test_a_read_that_the_database_did_not_take_is_recorded_later(system):
    know(system, "The boat is blue.")
    with mock.patch.object(PlanStore, "put", side_effect=VaultUnavailable("away")):
        ask(make_pipeline(system), "Which colour has the boat?")
    assert reads(system) == []
    assert system.audit.reads.recover() == 1
    assert system.audit.reads.recover() == 0
    assert len(reads(system)) == 1


def broken(system):
    folder = system.config.root / "audit_reads"
    folder.write_text("not a folder")


def test_without_the_record_the_chat_is_answered_and_says_so(system):
    know(system, "The boat is blue.")
    broken(system)
    exchange = WatchingExchange(system)
    plan, messages = ask(make_pipeline(system), "Which colour has the boat?", exchange)
    assert "The boat is blue." in messages[0]["content"]
    assert plan.degraded == ["audit"]
    assert len(reads(system)) == 1, "as before: after the reply"


def test_where_the_record_is_required_the_engine_never_sees_the_prompt(tmp_path):
    config = make_config(tmp_path, governance={"audit": {"required": True}})
    system = MemorySystem(config).open()
    try:
        know(system, "The boat is blue.")
        broken(system)
        exchange = FakeExchange()
        with pytest.raises(AuditUnavailable):
            ask(make_pipeline(system), "Which colour has the boat?", exchange)
        assert exchange.answered == []
        assert AuditUnavailable.status == 503
        ask(make_pipeline(system), "Hello?", who=principal("bob"))  # no memory, no record
    finally:
        system.close()


def test_another_process_does_not_take_the_entries_of_one_that_runs(tmp_path):
    keys = AuditKeys(tmp_path / "keys")
    one, other = (ReadJournal(tmp_path / "reads", keys) for _ in range(2))
    read = read_of(ALICE, "r", ["c@v"])
    one.append(read).result(10)
    assert list(other.abandoned()) == []
    one.close()
    assert list(other.abandoned()) == [[read]]
    assert list(other.abandoned()) == []


def test_entries_of_a_key_that_is_not_there_wait_for_it(tmp_path):
    keys = AuditKeys(tmp_path / "keys")
    journal = ReadJournal(tmp_path / "reads", keys)
    read = read_of(ALICE, "r", ["c@v"])
    journal.append(read).result(10)
    journal.close()
    assert list(ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "others")).abandoned()) == []
    assert list(ReadJournal(tmp_path / "reads", keys).abandoned()) == [[read]]


def test_a_plan_of_the_same_request_hides_no_other_read(system):
    """A client chooses its ids of requests."""
    entry = {"decision": "used", "cube": "cube_1", "version": "v_1"}
    same, other = (read_of(ALICE, "r", [cube]) for cube in ("cube_1@v_1", "cube_2@v_2"))
    system.plans.put(ALICE, "r", {"entries": [entry]})
    for read in (same, other):
        system.audit.reads.not_recorded(read)
    assert system.audit.reads.recover() == 1
    assert reads(system)[-1]["detail"]["cubes"] == ["cube_2@v_2"]


def test_a_forged_or_cut_entry_is_not_recorded(tmp_path, caplog):
    keys = AuditKeys(tmp_path / "keys")
    journal = ReadJournal(tmp_path / "reads", keys)
    good = read_of(ALICE, "r-good", ["c@v"])
    for read in (good, read_of(ALICE, "r-forged", ["c@v"]), read_of(ALICE, "r-cut", ["c@v"])):
        journal.append(read).result(10)
    journal.close()
    (path,) = (tmp_path / "reads").iterdir()
    data = path.read_bytes().replace(b"r-forged", b"r-f0rged")
    path.write_bytes(data[:-20])
    assert list(ReadJournal(tmp_path / "reads", keys).abandoned()) == [[good]]
    assert "not written by this server" in caplog.text


def test_many_entries_share_a_write(tmp_path):
    journal = ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "keys"))
    begin, syncs, sync = threading.Event(), [], os.fdatasync

    def slow(descriptor):
        syncs.append(descriptor)
        begin.wait(10)
        sync(descriptor)

    with mock.patch("os.fdatasync", slow):
        futures = [journal.append(read_of(ALICE, f"r{n}", ["c@v"])) for n in range(50)]
        begin.set()
        for future in futures:
            future.result(10)
    assert len(syncs) <= 3
    journal.close()


def test_a_write_that_fails_in_the_middle_costs_itself(tmp_path):
    journal = ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "keys"))
    first, lost, last = (read_of(ALICE, f"r{n}", ["c@v"]) for n in range(3))
    journal.append(first).result(10)
    write = os.write

    def part(descriptor, data):
        write(descriptor, data[:30])
        raise OSError(28, "No space left on device")

    with mock.patch("os.write", part), pytest.raises(AuditUnavailable, match="No space"):
        journal.append(lost).result(10)
    journal.append(last).result(10)
    journal.close()
    left = ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "keys")).abandoned()
    assert {read.request_id for some in left for read in some} == {"r0", "r2"}


def test_a_full_file_is_left_for_a_new_one_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("memos_vllm.governance.read_journal._ROTATED_BYTES", 500)
    journal = ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "keys"))
    made = [read_of(ALICE, f"r{n}", ["c@v"]) for n in range(6)]
    for read in made:
        journal.append(read).result(10)
    assert len(list((tmp_path / "reads").iterdir())) > 1
    for read in made[:-1]:
        journal.settle(read)
    journal.close()
    assert list(ReadJournal(tmp_path / "reads", AuditKeys(tmp_path / "keys")).abandoned()) == [
        [made[-1]]
    ]


def test_an_erasure_leaves_no_name_in_the_journal_though_reads_never_pause(tmp_path):
    folder = tmp_path / "reads"
    journal = ReadJournal(folder, AuditKeys(tmp_path / "keys"))
    of_alice = read_of(ALICE, "r0", ["c@v"])
    journal.append(of_alice).result(10)
    journal.rotate()
    later = read_of(principal("bob"), "r1", ["c@v"])
    journal.append(later).result(10)
    journal.settle(of_alice)
    journal.append(read_of(principal("bob"), "r2", ["c@v"])).result(10)

    def text() -> str:
        return "".join(path.read_text() for path in folder.iterdir())

    wait_for(lambda: ALICE.person not in text(), "the file of before being removed", 10)
    assert text().count("bob") == 2
    journal.close()


def test_the_erasure_of_a_person_reaches_the_journal(system):
    journal, folder = system.audit.reads.journal, system.config.root / "audit_reads"
    of_alice = read_of(ALICE, "r0", ["c@v"])
    journal.append(of_alice).result(10)
    Eraser(system).request(principal("", role=Role.ADMIN), ALICE.person)
    for number in range(2):
        journal.append(read_of(principal("bob"), f"r{number}", ["c@v"])).result(10)
        journal.settle(of_alice)
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "bob" in text
    assert ALICE.person not in text


def test_a_client_that_goes_away_before_the_reply_does_not_cancel_the_record(system):
    async def run():
        journal = system.audit.reads.journal
        written = asyncio.wrap_future(journal.append(read_of(ALICE, "r", ["c@v"])))
        recorded = asyncio.ensure_future(written)

        async def outputs():
            yield "token"

        async def stream():
            async for _ in _watched(outputs(), EngineCall(recorded=recorded), InFlight()):
                pass

        task = asyncio.create_task(stream())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await recorded

    asyncio.run(run())
