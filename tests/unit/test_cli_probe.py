"""`memos doctor --probe` without a server: what it refuses, and its signed results checked offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memos_vllm.cli.main import app
from memos_vllm.governance import receipts
from memos_vllm.governance.audit_keys import AuditKeys

RESULT: dict[str, Any] = {
    "url": "http://127.0.0.1:8000",
    "probed": "2026-01-01T00:00:00+00:00",
    "level": 0.99,
    "findings": [{"attack": "prefix cache, another tenant", "leaks": False}],
    "skipped": {},
    "passed": True,
}


def verify(tmp_path: Path, receipt: dict[str, Any], **options: str) -> tuple[int, str]:
    file = tmp_path / "probe.json"
    file.write_text(json.dumps(receipt))
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["erasure", "verify", str(file), *given])
    return result.exit_code, result.output


@pytest.fixture
def signed() -> dict[str, Any]:
    return receipts.signed(AuditKeys().current, RESULT, receipts.PROBE_FORMAT)


def test_a_signed_probe_is_valid_by_key_and_by_fingerprint(tmp_path, signed):
    key = signed["public_key"]
    code, said = verify(tmp_path, signed, key=key)
    assert code == 0
    assert "no leak of http://127.0.0.1:8000" in said
    assert "prefix cache, another tenant" in said
    assert verify(tmp_path, signed, fingerprint=receipts.fingerprint(key))[0] == 0


@pytest.mark.parametrize("field", sorted({*RESULT, "key_id"}))
def test_every_change_of_a_signed_probe_is_found(tmp_path, signed, field):
    changed = signed | {field: [] if field != "key_id" else "0" * 16}
    assert verify(tmp_path, changed, key=signed["public_key"])[0] == 1


def test_another_key_is_found(tmp_path, signed):
    other = AuditKeys().current.public
    assert verify(tmp_path, signed, key=other)[0] == 1
    code, said = verify(tmp_path, signed, fingerprint=receipts.fingerprint(other))
    assert code == 1
    assert "not the pinned one" in said


def test_a_probe_that_found_a_leak_is_not_valid(tmp_path):
    made = receipts.signed(AuditKeys().current, RESULT | {"passed": False}, receipts.PROBE_FORMAT)
    code, said = verify(tmp_path, made, key=made["public_key"])
    assert code == 1
    assert "found a leak" in said


def test_the_signature_of_a_probe_is_none_of_an_erasure(tmp_path, signed):
    as_erasure = signed | {"format": receipts.FORMAT, "complete": True}
    code, said = verify(tmp_path, as_erasure, key=signed["public_key"])
    assert code == 1
    assert "the signature does not fit" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--other-key", "x"], "give --key with --other-key"),
        (["--receipt", "here.json"], "exists already"),
    ],
)
def test_options_that_cannot_be_done_are_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.json").write_text("{}")
    result = CliRunner().invoke(app, ["doctor", "--probe", *options])
    assert result.exit_code == 1
    assert message in result.output
    assert (tmp_path / "here.json").read_text() == "{}"
