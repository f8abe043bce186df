"""The audit log: what someone with the database alone can change is found."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from memos_vllm.cube.ids import canonical_json, sha256
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import Forbidden
from memos_vllm.governance.merkle import Frontier, leaf_hash
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault import audit
from tests.conftest import make_config, principal

ADMIN, ALICE = principal("", role=Role.ADMIN), principal("alice")


@pytest.fixture
def system(database_url, tmp_path):
    opened = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    yield opened
    opened.close()


def add(system, name, who=ALICE):
    new = NewCube(meta=NewMeta(name=name), payload=ExplicitPayload(content=[Item(text="One.")]))
    return system.vault.create(who, new)


def run(system, *statements):
    with system.database.write() as session:
        for statement in statements:
            session.execute(sa.text(statement))


@pytest.fixture
def covered(system):
    """Five records that a checkpoint covers."""
    for number in range(5):
        add(system, f"n{number}")
    system.audit.checkpoint()
    assert system.audit.verify(ADMIN) == []
    return system


LAST = "(SELECT max(number) FROM audit_entries)"
SHARD_BACK = (
    "UPDATE audit_shards SET count = count - 1, "
    "head = (SELECT mac FROM audit_entries WHERE number = 4)"
)


@pytest.mark.parametrize(
    "attack",
    [
        ["UPDATE audit_entries SET object = 'nothing' WHERE number = 2"],
        ["UPDATE audit_entries SET key_id = 'other' WHERE number = 2"],
        ["UPDATE audit_entries SET mac_key = 'other' WHERE number = 2"],
        ["DELETE FROM audit_entries WHERE number = 2"],
        [f"DELETE FROM audit_entries WHERE number = {LAST}"],
        [f"DELETE FROM audit_entries WHERE number = {LAST}", SHARD_BACK],
        ["DELETE FROM audit_entries", "DELETE FROM audit_shards"],
        [
            "UPDATE audit_entries SET leaf = 9 WHERE number = 2",
            "UPDATE audit_entries SET leaf = 1 WHERE number = 3",
            "UPDATE audit_entries SET leaf = 2 WHERE number = 2",
        ],
        ["UPDATE audit_persons SET person = 'bob'"],
    ],
    ids=["object", "key", "mac key", "middle", "end", "end and head", "all", "order", "name"],
)
def test_a_change_by_the_database_alone_is_found(covered, attack):
    run(covered, *attack)
    assert covered.audit.verify(ADMIN)


def test_a_log_that_was_emptied_and_written_again_is_not_the_one_of_the_checkpoint(covered):
    run(covered, "DELETE FROM audit_entries", "DELETE FROM audit_shards")
    for number in range(6):
        add(covered, f"later{number}")
    assert any("checkpoint" in problem for problem in covered.audit.verify(ADMIN))


def test_a_copied_record_is_found(covered):
    columns = "number, tenant, at_us, key_id, person, owner, request_id, action, object, detail, mac_key, mac"
    run(
        covered,
        f"INSERT INTO audit_entries (shard, leaf, {columns}) "
        f"SELECT 'copy', 5, {columns} FROM audit_entries WHERE number = 1",
    )
    assert covered.audit.verify(ADMIN)


def test_records_of_an_older_key_stay_verifiable(covered, tmp_path):
    with (tmp_path / "audit.keys").open("a") as file:
        file.write("ab" * 32 + "\n")
    covered.audit.checkpoint()
    add(covered, "new key")
    covered.audit.checkpoint()
    assert covered.audit.verify(ADMIN) == []
    assert len({record["mac_key"] for record in covered.audit.read(ADMIN)}) == 2


def test_a_restart_continues_the_log(covered, database_url, tmp_path):
    again = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    add(again, "after the restart")
    again.close()
    assert covered.audit.verify(ADMIN) == []


def test_writers_at_once_leave_a_whole_log(system):

    def write(writer):
        for number in range(5):
            add(system, f"n{number}", principal(f"person{writer}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(system.audit.read(ADMIN)) == 30
    assert system.audit.verify(ADMIN) == []


def test_a_write_that_fails_leaves_no_gap(system):
    add(system, "a")

    def fail(session):
        audit.record(session, ALICE, "cube.create", "x", {})
        raise RuntimeError

    new = NewCube(meta=NewMeta(name="lost"), payload=ExplicitPayload(content=[Item(text="One.")]))
    with pytest.raises(RuntimeError):
        system.vault.create(ALICE, new, in_transaction=fail)
    add(system, "b")
    assert len(system.audit.read(ADMIN)) == 2
    assert system.audit.verify(ADMIN) == []


def test_a_person_named_like_a_key_is_not_taken_for_one(system):
    add(system, "x", principal("key:abc"))
    record = system.audit.read(ADMIN)[0]
    assert (record["key_id"], record["person"]) == ("test", "key:abc")


def test_an_erased_name_is_gone_and_the_log_is_whole(covered):
    with covered.database.write() as session:
        name = audit.forget_person(session, ADMIN.tenant, ALICE.person)
    records = covered.audit.read(ADMIN)
    assert all("alice" not in str(record) for record in records)
    assert (records[-1]["action"], records[-1]["object"]) == ("audit.forget", name)
    add(covered, "as a new person")
    assert covered.audit.read(ADMIN)[-1]["person_pseudonym"] != name
    assert covered.audit.verify(ADMIN) == []


def test_a_refused_reader_of_the_log_is_recorded(system):
    with pytest.raises(Forbidden):
        system.audit.read(ALICE)
    record = system.audit.read(ADMIN)[-1]
    assert (record["action"], record["person"]) == ("audit.refused", "alice")


def test_a_prompt_with_memory_is_recorded_with_its_versions(system):
    entries = [
        {"decision": "used", "cube": "cube_1", "version": "v_1"},
        {"decision": "rejected", "cube": "cube_2", "version": "v_2"},
    ]
    system.plans.put(principal("alice", role=Role.READER), "chatcmpl-1", {"entries": entries})
    record = system.audit.read(ADMIN)[-1]
    assert (record["action"], record["request_id"]) == ("memory.read", "chatcmpl-1")
    assert record["detail"] == {"cubes": ["cube_1@v_1"]}


def test_the_new_log_begins_with_the_end_of_the_old_one(system):
    fields = ["", 1, "acme", "alice", "cube.create", "cube_1", {}]
    digest = sha256(canonical_json(fields))
    run(
        system,
        "INSERT INTO audit (seq, at_us, tenant, actor, action, object, detail, previous, digest) "
        f"VALUES (1, 1, 'acme', 'alice', 'cube.create', 'cube_1', '{{}}', '', '{digest}')",
        f"INSERT INTO tenants (id, created_us, audit_digest) VALUES ('acme', 1, '{digest}')",
    )
    add(system, "x")
    first = system.audit.read(ADMIN)[0]
    assert (first["action"], first["detail"]) == ("audit.begin", {"digest": digest, "records": 1})
    assert system.audit.verify(ADMIN) == []
    run(system, "DELETE FROM audit", "UPDATE tenants SET audit_digest = ''")
    assert system.audit.verify(ADMIN) == ["records are missing at the end of the old log"]


def test_the_root_is_that_of_rfc_6962():
    """Test vectors of the Certificate Transparency reference implementation."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    tree = Frontier()
    for data in inputs:
        tree.append(leaf_hash(bytes.fromhex(data)))
    assert tree.root.hex() == "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"


def test_a_new_installation_has_a_whole_log_and_logs_no_error(system, caplog) -> None:
    system.audit.checkpoint()
    assert system.audit.read(ADMIN) == []
    assert system.audit.verify(ADMIN) == []
    assert not [each for each in caplog.records if each.levelname == "ERROR"]
