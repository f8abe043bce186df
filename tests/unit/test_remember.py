"""Turns become memory exactly once: after a kill, after a retry, concurrently."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import threading

import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import Forbidden
from memos_vllm.governance.principal import Role
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer, cube_name
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.system import MemorySystem
from memos_vllm.vault import jobs
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, freeze, make_config, principal
from tests.engine.harness import wait_for

ALICE = dataclasses.replace(principal("alice"), session="s")


def body(text: str, reply: str = "I see.", request_id: str = "r-1") -> dict:
    messages = [{"role": "user", "content": text}]
    made = turn_body(messages, reply, model="demo", request_id=request_id, at_us=now_us())
    assert made is not None
    return made


def remembered(system: MemorySystem, who=ALICE) -> dict[str, list[str]]:
    headers, _ = system.views.page(who, CubeFilter(person=who.person))
    return {
        header.name: [item.text for item in system.vault.get(who, header.id).payload.content]
        for header in headers
    }


@pytest.fixture
def rememberer(system):
    """A rememberer without workers: tests call its handler."""

    return Rememberer(system, FakeQueue(system.jobs, system.config.jobs))


def test_a_job_that_runs_twice_remembers_once(system, rememberer):
    turn = rememberer.accept(ALICE, body("Hello there."))
    pending = system.turns.get(turn)
    rememberer.remember(turn)
    rememberer.remember(turn)
    rememberer._append(pending)  # as if killed before the turn was deleted
    assert remembered(system) == {"chat-s#1": ["Hello there.", "I see."]}
    assert system.turns.waiting() == []


def test_a_turn_has_speaker_time_and_source_and_the_version_its_provenance(system, rememberer):
    rememberer.remember(rememberer.accept(ALICE, body("Hello there.", request_id="chatcmpl-7")))
    cube = system.vault.get(ALICE, "chat-s#1")
    said, replied = cube.payload.content
    assert (said.speaker, replied.speaker) == ("alice", "assistant")
    assert said.time == replied.time is not None
    assert (said.source, replied.source) == ("chatcmpl-7:user", "chatcmpl-7:reply")
    provenance = cube.meta.provenance
    assert provenance.origin == "chat"
    assert provenance.message_ids == ["chatcmpl-7"]
    assert provenance.model == "demo"
    assert len(provenance.prompt_sha256) == 64


@pytest.mark.slow
def test_odd_and_oversized_input_of_a_client_can_be_remembered(system, rememberer):
    longest = dataclasses.replace(ALICE, session="s/" * 128)
    odd = body("a\x00b" + "word " * 5000, reply="\x00", request_id="r" * 5000)
    rememberer.remember(rememberer.accept(longest, odd))
    (items,) = remembered(system, longest).values()
    assert items[0].startswith("abword")
    assert len(items) > 5, "a long turn is cut into passages, which fit into prompts"
    assert " ".join(items).split() == ("ab" + "word " * 5000).split()
    assert system.turns.waiting() == []


def test_a_long_conversation_goes_on_in_another_cube(tmp_path):
    system = MemorySystem(make_config(tmp_path, remember={"items_per_cube": 4})).open()
    rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
    for number in range(5):
        turn = system.turns.add(ALICE, body(f"What is line {number}?", request_id=f"r-{number}"))
        rememberer.remember(turn)
    assert {name: len(items) for name, items in remembered(system).items()} == {
        "chat-s#1": 4,
        "chat-s#2": 4,
        "chat-s#3": 2,
    }
    system.close()


@pytest.mark.parametrize("trouble", ["damaged", "frozen"])
def test_a_conversation_goes_on_beside_a_cube_that_cannot_be_written(
    system, rememberer, tmp_path, trouble
):
    rememberer.remember(rememberer.accept(ALICE, body("Before.", request_id="r-1")))
    cube = system.vault.get(ALICE, "chat-s#1").meta
    if trouble == "damaged":
        digest = system.vault.history(ALICE, cube.id)[0].payload_sha256
        (file,) = (tmp_path / "payloads").rglob(f"{digest}.json")
        file.write_bytes(b"{}")
    else:
        freeze(system, cube.id)
    rememberer.remember(rememberer.accept(ALICE, body("After.", request_id="r-2")))
    after = system.vault.get(ALICE, "chat-s#2")
    assert [item.text for item in after.payload.content] == ["After.", "I see."]
    assert system.turns.waiting() == []


def test_concurrent_turns_of_one_session_are_all_stored(system, rememberer):
    turns = [rememberer.accept(ALICE, body(f"line {n}", request_id=f"r-{n}")) for n in range(8)]
    threads = [threading.Thread(target=rememberer.remember, args=(turn,)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (items,) = remembered(system).values()
    assert sorted(text for text in items if text != "I see.") == [f"line {n}" for n in range(8)]
    assert len(items) == 16


def test_a_reader_writes_nothing(system):
    with pytest.raises(Forbidden):
        system.turns.add(principal("alice", role=Role.READER), body("Hello."))


def test_a_session_of_any_name_gets_a_valid_cube_name():
    assert cube_name("work-2") == "chat-work-2"
    assert cube_name("a/b") != cube_name("a/c")
    assert "/" not in cube_name("a/b")
    assert len(cube_name("x" * 5000)) < 100


KILLED = """
    import os, sys
    from memos_vllm.config.load import load_config
    from memos_vllm.learning.queue import JobQueue
    from memos_vllm.learning.remember import Rememberer
    from memos_vllm.system import MemorySystem
    from memos_vllm.vault import jobs
    from memos_vllm.vault.vault import MemVault
    from tests.unit.test_remember import ALICE, body

    system = MemorySystem(load_config(sys.argv[1])).open()
    place = sys.argv[2]
    jobs.LEASE_SECONDS = 1.0
    real = MemVault.create

    def die(*args, **kwargs):
        if place == "after":
            real(*args, **kwargs)
        os._exit(9)

    MemVault.create = die
    rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
    if place == "queued":
        system.turns.add(ALICE, body("Survives."))
        os._exit(9)
    rememberer.start()
    rememberer.accept(ALICE, body("Survives."))
    import time
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["queued", "before", "after"])
def test_a_kill_loses_no_turn_and_doubles_none(tmp_path, place):
    """Killed before the job was claimed, before its write, and between its write and its end."""
    config = make_config(tmp_path / "home")
    file = tmp_path / "config.yaml"
    file.write_text(f"home: {config.root}\nembedder: {{model: {config.embedder.model}}}\n")
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(file), place],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert died.returncode == 9, died.stderr
    system = MemorySystem(config).open()
    # After its transaction the turn is memory and its row deleted; only indexing is left.
    assert len(system.turns.waiting()) == (0 if place == "after" else 1)
    rememberer = Rememberer(system, JobQueue(system.jobs, config.jobs))
    rememberer.start()
    try:
        wait_for(lambda: system.turns.waiting() == [], "the turn becoming memory", 60)
        assert remembered(system) == {"chat-s#1": ["Survives.", "I see."]}
    finally:
        rememberer.stop()
        system.close()


def test_jobs_run_on_postgres_too(tmp_path, postgres_url):
    system = MemorySystem(make_config(tmp_path, database={"url": postgres_url()})).open()
    rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
    rememberer.start()
    try:
        rememberer.accept(ALICE, body("On Postgres."))
        wait_for(lambda: system.turns.waiting() == [], "the turn becoming memory", 60)
        assert remembered(system) == {"chat-s#1": ["On Postgres.", "I see."]}
    finally:
        rememberer.stop()
        system.close()


@pytest.mark.slow
def test_done_jobs_leave_no_row_and_failed_ones_do(tmp_path, monkeypatch):
    system = MemorySystem(make_config(tmp_path)).open()
    monkeypatch.setattr(jobs, "MAX_ATTEMPTS", 1)
    rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
    real = rememberer._append

    def append(turn):
        if turn.body["user"] == "Broken.":
            raise OSError("the disk is full")
        return real(turn)

    monkeypatch.setattr(rememberer, "_append", append)
    rememberer.start()
    try:
        broken = rememberer.accept(ALICE, body("Broken.", request_id="r-1"))
        rememberer.accept(ALICE, body("Hello.", request_id="r-2"))
        wait_for(lambda: system.jobs.counts() == {("fast", "failed"): 1}, "both ends", 60)
        assert remembered(system) == {"chat-s#1": ["Hello.", "I see."]}
        assert system.turns.waiting() == [broken], "its turn is not lost"
        monkeypatch.undo()
        assert system.jobs.retry_failed() == 1
        wait_for(lambda: system.turns.waiting() == [], "the turn becoming memory", 60)
        assert len(remembered(system)["chat-s#1"]) == 4
    finally:
        rememberer.stop()
        system.close()


@pytest.mark.parametrize("becomes_memory", [False, True])
def test_a_turn_is_stored_once_though_its_commit_was_not_answered(
    system, rememberer, becomes_memory
):
    """A database that ends after a commit and before its answer: the turn is stored again."""
    said, turn_id = body("Hello there."), new_id("turn")
    rememberer.accept(ALICE, said, turn_id)
    if becomes_memory:
        rememberer.remember(turn_id)
    rememberer.accept(ALICE, said, turn_id, is_repeated=True)
    for waiting in system.turns.waiting():
        rememberer.remember(waiting)
    assert remembered(system) == {"chat-s#1": ["Hello there.", "I see."]}


def test_a_repeated_turn_is_stored_though_an_older_one_has_its_request_s_id(system, rememberer):
    rememberer.remember(rememberer.accept(ALICE, body("The first.")))
    turn_id = rememberer.accept(ALICE, body("The second."), new_id("turn"), is_repeated=True)
    assert system.turns.waiting() == [turn_id]


def test_jobs_hold_no_text(system, rememberer):
    """The vault's cubes and turns hold what a person said; deleting it there deletes it."""
    turn = rememberer.accept(ALICE, body("The ZEBRA is striped."))
    job = system.jobs.claim(jobs.Lane.FAST, "test")
    assert job.subject == turn
    with system.database.read() as session:
        rows = session.execute(sa.text("SELECT * FROM jobs")).all()
    assert len(rows) == 1
    assert "ZEBRA" not in repr(rows)
