"""`memos audit`: what an auditor with the public key alone can find."""

from __future__ import annotations

import json
import sqlite3

import pytest
import yaml
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

ALICE = principal("alice")


@pytest.fixture
def settings(tmp_path):
    config = make_config(tmp_path / "home")
    path = tmp_path / "memos.yaml"
    tree = {
        "home": str(tmp_path / "home"),
        "embedder": {"model": config.embedder.model, "processes": 0},
    }
    path.write_text(yaml.safe_dump(tree))
    add(tmp_path, 5)
    return path


def add(tmp_path, count, who=ALICE):
    system = MemorySystem(make_config(tmp_path / "home")).open()
    for _ in range(count):
        new = NewCube(meta=NewMeta(), payload=ExplicitPayload(content=[Item(text="Secret words.")]))
        system.vault.create(who, new)
    system.close()


@pytest.fixture
def memos(settings):
    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["audit", *arguments, "--config", str(settings)])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def public(memos, tmp_path):
    """The auditor's file of public keys."""
    file = tmp_path / "auditor.txt"
    file.write_text(memos("key").stdout)
    return str(file)


def test_a_record_is_proved_with_the_public_key_alone(memos, public, tmp_path):
    proof = json.loads(memos("prove", "3", "--tenant", "acme").stdout)
    assert proof["record"]["action"] == "cube.create"
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    (tmp_path / "home" / "audit.keys").unlink()
    (tmp_path / "home" / "vault.sqlite").unlink()
    memos("verify", "--proof", str(file), "--public-key", public)
    for change in ({"object": "other"}, {"seq": 2}, {"person": "p_other"}, {"tenant": "evil"}):
        file.write_text(json.dumps(proof | {"record": proof["record"] | change}))
        memos("verify", "--proof", str(file), "--public-key", public, code=1)
    file.write_text(json.dumps(proof | {"checkpoint": proof["checkpoint"] | {"size": 4}}))
    memos("verify", "--proof", str(file), "--public-key", public, code=1)
    file.write_text(json.dumps(proof))
    memos("verify", "--proof", str(file), "--public-key", "ab" * 32, code=1)


def test_growth_alone_is_proved_between_two_checkpoints(memos, public, tmp_path):
    add(tmp_path, 3)
    proof = json.loads(memos("prove", "--from", "5", "--tenant", "acme").stdout)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    memos("verify", "--proof", str(file), "--public-key", public)
    file.write_text(json.dumps(proof | {"first": proof["first"] | {"root": "00" * 32}}))
    memos("verify", "--proof", str(file), "--public-key", public, code=1)
    file.write_text(json.dumps(proof | {"path": proof["path"][1:]}))
    memos("verify", "--proof", str(file), "--public-key", public, code=1)


@pytest.mark.parametrize("filters", [[], ["--action", "cube.*"], ["--person", "alice"]])
def test_an_export_is_verified_offline_and_every_change_is_found(memos, public, tmp_path, filters):
    file = tmp_path / "log.jsonl"
    memos("export", str(file), "--tenant", "acme", *filters)
    lines = file.read_text().splitlines()
    assert sum('"action":"cube.create"' in line for line in lines) == 5
    assert "alice" not in file.read_text().replace('"filters":{"person":"alice"}', "")
    check = ("verify", "--export", str(file), "--public-key", public)
    memos(*check)
    attacks = {
        "changed": [*lines[:2], lines[2].replace("cube.create", "cube.delete"), *lines[3:]],
        "removed": [*lines[:2], *lines[3:]],
        "moved": [lines[0], lines[2], lines[1], *lines[3:]],
        "cut": lines[:-1],
        "emptied": [lines[0], lines[-1]],
        "continued": [*lines, lines[1]],
        "nonsense": [lines[0], "{", *lines[1:]],
    }
    for name, attacked in attacks.items():
        file.write_text("\n".join(attacked) + "\n")
        assert memos(*check, code=1), name


def test_an_export_with_names_says_so_and_is_recorded(memos, tmp_path):
    file = tmp_path / "log.jsonl"
    memos("export", str(file), "--tenant", "acme", "--names")
    header, *_, last, _end = map(json.loads, file.read_text().splitlines())
    assert list(header["names"].values()) == ["alice"]
    assert (last["action"], last["key_id"], last["detail"]["names"]) == (
        "audit.export",
        "cli",
        True,
    )


def test_an_older_database_is_found_by_a_copy_of_the_checkpoints(memos, tmp_path):
    """Rollback: database, keys and checkpoints of an older day together; the copy is outside."""
    home, older, outside = tmp_path / "home", tmp_path / "older", tmp_path / "outside.jsonl"

    def copy(source, target):
        with sqlite3.connect(source) as live, sqlite3.connect(target) as copied:
            live.backup(copied)

    memos("verify", "--tenant", "acme")
    copy(home / "vault.sqlite", older)
    (checkpoints,) = (home / "audit").iterdir()
    before = checkpoints.read_bytes()
    add(tmp_path, 4)
    outside.write_bytes(checkpoints.read_bytes())
    check = ("verify", "--tenant", "acme", "--checkpoints", str(outside))
    memos(*check)
    copy(older, home / "vault.sqlite")
    checkpoints.write_bytes(before)
    memos("verify", "--tenant", "acme")
    assert "4 records of a checkpoint are missing" in memos(*check, code=1).output
    add(tmp_path, 6)
    found = memos(*check, code=1).output
    assert "the first 9 records are not those of their checkpoint" in found


def test_verification_from_the_checkpoint_finds_what_is_behind_it(memos, tmp_path):
    add(tmp_path, 2)
    memos("verify", "--tenant", "acme", "--from-checkpoint")
    with sqlite3.connect(tmp_path / "home" / "vault.sqlite") as connection:
        connection.execute("UPDATE audit_trees SET sealed = sealed")
        connection.execute("UPDATE audit_entries SET object = 'x' WHERE leaf = 6")
    memos("verify", "--tenant", "acme", code=1)


def test_a_new_key_signs_and_the_older_one_still_verifies(memos, tmp_path):
    old = json.loads(memos("key", "--json").stdout)["current"]
    memos("key", "--rotate")
    keys = json.loads(memos("key", "--json").stdout)
    assert keys["current"] != old
    assert set(keys["public_keys"]) == {old, keys["current"]}
    add(tmp_path, 1)
    memos("verify", "--tenant", "acme")
