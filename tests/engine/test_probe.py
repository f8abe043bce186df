"""`memos doctor --probe` on a running server: its own keys or given ones, signed, and checked offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.config.load import load_config
from memos_vllm.governance.probe_target import Prefix, Target
from memos_vllm.governance.probing import LEAST_PROBES, measured, new_texts
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server

WORDS = 25


@pytest.fixture
def config(tmp_path: Path, homes: Path) -> Path:
    file = tmp_path / "memos.yaml"
    file.write_text(f"home: {homes / 'home'}\n")
    return file


def probed(server: Server, config: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """(exit code, signed result)"""
    asked = ["doctor", "--probe", "--config", str(config), "--url", server.url, "--json"]
    size = ["--probes", str(LEAST_PROBES), "--words", str(WORDS)]
    result = CliRunner().invoke(app, [*asked, *size, *options])
    assert result.stdout.startswith("{"), result.output
    return result.exit_code, json.loads(result.stdout)


def test_a_probe_sees_the_victims_hits_and_none_of_a_stranger_and_is_verified_offline(
    server, keys, config, tmp_path
):
    file = tmp_path / "probe.json"
    code, result = probed(server, config, "--receipt", str(file))
    assert result == json.loads(file.read_text())
    assert [each["attack"] for each in result["findings"]] == [
        "prefix cache, another person of the tenant",
        "prefix cache, another tenant",
        "stored KV, another person of the tenant",
        "stored KV, another tenant",
    ]
    assert result["skipped"] == {}
    for finding in result["findings"]:
        assert finding["attacker_cached_tokens"] == finding["attacker_hits"] == 0, finding
        assert finding["control_hits"] == finding["probes"] == LEAST_PROBES, finding
    clean = not any(each["leaks"] or not each["conclusive"] for each in result["findings"])
    assert result["passed"] is clean
    assert code == (0 if clean else 1)
    run = CliRunner().invoke
    pinned = ["--key", result["public_key"]]
    checked = run(app, ["erasure", "verify", str(file), *pinned])
    assert (checked.exit_code == 0) is clean, checked.output
    file.write_text(json.dumps(result | {"passed": True, "probed": "2000-01-01"}))
    forged = run(app, ["erasure", "verify", str(file), *pinned])
    assert forged.exit_code == 1
    assert "the signature does not fit" in forged.output


def test_a_probe_leaves_no_cube_and_no_key_that_works(server, keys, config, homes):
    system = MemorySystem(load_config(overrides={"home": str(homes / "home")}))
    made = [each for each in system.keys.list() if each.label == "memos doctor"]
    assert made, "the test before"
    assert all(each.revoked_us for each in made)
    owners = [
        owner for owner in system.index_state.owners() if owner.tenant.startswith("memos-probe")
    ]
    assert [cube for owner in owners for cube, _ in system.index_state.cubes(owner)] == []
    system.close()


def test_without_a_second_tenants_key_the_result_says_what_was_not_probed(server, keys, config):
    _, result = probed(server, config, "--key", keys.acme)
    assert len(result["findings"]) == 2
    assert result["skipped"] == {
        "prefix cache, another tenant": "give --key and --other-key, of two tenants"
    }


def test_a_shared_cache_is_found(server, keys):
    """A person who attacks himself: what a server that isolates nothing would show."""
    target = Target(server.url, MODEL)
    prefix = Prefix(target, keys.acme, keys.acme)
    person = target.new_person()
    prefix._person = person
    target.new_person = lambda: person  # type: ignore[method-assign]
    try:
        found = measured(prefix.attack("itself"), new_texts(WORDS), LEAST_PROBES)
    finally:
        target.close()
    assert found.leaks
    assert found.attacker_hits >= LEAST_PROBES
    assert found.attacker.auc > 0.8


def test_a_probe_of_a_server_that_is_away_is_an_error(config):
    asked = ["doctor", "--probe", "--config", str(config), "--url", "http://127.0.0.1:9"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 1
    assert "does not answer" in result.output
