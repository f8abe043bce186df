"""Who may erase, and what shows it: routes, command line, receipts, logs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.access_log import PrivatePaths
from memos_vllm.api.app import create_app
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import Forbidden, NotFound
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.erasure import ADMIN, CANARIES, NAME, erase, findings, rows
from tests.erasure import _no_other_process as _no_other_process
from tests.erasure import eraser as eraser
from tests.unit.test_transforms import text


@pytest.fixture
def system(database_url: str, tmp_path: Path) -> Iterator[MemorySystem]:
    # Chroma as in production: its files are looked into.
    config = make_config(
        tmp_path / "home",
        database={"url": database_url},
        chroma={"process": True},
        governance={"key_cache_seconds": 0},
    )
    opened = MemorySystem(config).open()
    yield opened
    opened.close()


def test_a_receipt_is_checked_offline_and_any_change_is_found(
    system: MemorySystem, eraser: Eraser
) -> None:
    receipt = erase(eraser)
    key = system.database.audit_keys.current
    found = eraser.status(ADMIN, receipt["erasure"])
    print_ = receipts.fingerprint(key.public)
    mine = (NAME, eraser.subject_key(found))
    assert receipts.problems(receipt, public=key.public, person=mine) == []
    assert receipts.problems(receipt, pinned=print_, person=mine) == []
    assert NAME not in json.dumps(receipt, ensure_ascii=False)
    assert receipts.problems(receipt, person=mine) == ["no key is given to check it with"]
    assert receipts.problems(receipt, public=key.public, person=("bob", mine[1]))
    for name, value in receipt.items():
        changed = {**receipt, name: not value if isinstance(value, bool) else f"{value} "}
        assert receipts.problems(changed, pinned=print_), name
    with pytest.raises(Forbidden):
        eraser.status(principal("bob"), receipt["erasure"])
    elsewhere = principal("", "globex", Role.ADMIN)
    with pytest.raises(NotFound):
        eraser.status(elsewhere, receipt["erasure"])


def test_only_admins_and_the_person_s_own_token_erase(system: MemorySystem) -> None:
    _, admin = system.keys.create("acme", Role.ADMIN)
    _, writer = system.keys.create("acme", Role.WRITER)
    _, foreign = system.keys.create("globex", Role.ADMIN)
    text(system, principal("ann"), "The harbour is blue.")
    app = TestClient(create_app(system), raise_server_exceptions=False)

    def as_(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}", "X-Memos-User": "ann"}

    def token(person: str, *scopes: str) -> str:
        made = app.post(
            f"/v1/memory/people/{person}/tokens",
            json={"scopes": scopes},
            headers={"Authorization": f"Bearer {admin}"},
        )
        return made.json()["token"]

    url = "/v1/memory/people/ann"
    assert app.delete(url, headers=as_(writer)).status_code == 403
    bob = {"Authorization": f"Bearer {token('bob', Scope.DELETE)}"}
    assert app.delete(url, headers=bob).status_code == 403
    weak = {"Authorization": f"Bearer {token('ann', Scope.READ, Scope.WRITE)}"}
    assert app.delete(url, headers=weak).status_code == 403
    assert app.delete(url, headers=as_(foreign)).status_code == 202, "of its own tenant's ann"
    assert system.search(principal("ann"), "harbour", None, 1).found
    own = {"Authorization": f"Bearer {token('ann', Scope.DELETE)}"}
    done = app.delete(url, headers=own)
    assert done.status_code == 202
    assert app.delete(url, headers=own).status_code == 401, "its tokens end with the person"
    path = f"/v1/memory/erasures/{done.json()['id']}"
    assert app.get(path, headers=as_(admin)).json()["state"] == "running"
    assert app.get(path, headers=as_(foreign)).status_code == 404
    assert app.get(path, headers=as_(writer)).status_code == 403
    assert len(app.get("/v1/memory/erasures", headers=as_(admin)).json()["erasures"]) == 1
    again = app.post("/v1/memory/erasures", json={"person": "a/b"}, headers=as_(admin))
    assert again.status_code == 202
    assert (
        app.post("/v1/memory/erasures", json={"person": ""}, headers=as_(admin)).status_code == 400
    )


def test_access_logs_have_no_names_and_no_questions() -> None:
    import logging

    for path, shown in (
        ("/v1/memory/people/ann%20b/tokens?x=1", "/v1/memory/people/…"),
        ("/v1/memory/sessions/about%20ann?dry_run=true", "/v1/memory/sessions/…"),
        ("/v1/memory/search?query=my+secret", "/v1/memory/search…"),
        ("/v1/memory/cubes", "/v1/memory/cubes"),
        ("/v1/chat/completions", "/v1/chat/completions"),
    ):
        args = ("127.0.0.1:1", "GET", path, "1.1", 200)
        record = logging.LogRecord(
            "uvicorn.access", logging.INFO, "", 0, '%s "%s %s" %s %d', args, None
        )
        assert PrivatePaths().filter(record)
        assert record.args[2] == shown  # type: ignore[index]


def test_memos_erase_and_verify_on_the_command_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    system = MemorySystem(make_config(home)).open()
    text(system, principal(NAME, "local"), CANARIES[0])
    system.close()
    (tmp_path / "c.yaml").write_text(
        f"home: {home}\nembedder: {{model: {system.config.embedder.model}, processes: 0}}\n"
    )

    def memos(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "memos_vllm.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    file, config = tmp_path / "receipt.json", ("--config", str(tmp_path / "c.yaml"))
    done = memos("erase", NAME, "--yes", "--receipt", str(file), *config)
    assert done.returncode == 0, done.stderr
    shown = json.loads(memos("erasure", "key", *config).stdout)
    valid = memos("erasure", "verify", str(file), "--fingerprint", shown[-1]["fingerprint"])
    assert valid.returncode == 0, valid.stdout
    file.write_text(file.read_text().replace('"complete": true', '"complete": 1'))
    assert memos("erasure", "verify", str(file), "--key", shown[-1]["public_key"]).returncode == 1
    assert findings(home, NAME, CANARIES[0]) == []


def test_erasing_leaves_no_trace_of_it_in_the_old_log(system: MemorySystem, eraser: Eraser) -> None:
    from memos_vllm.cube.ids import canonical_json, sha256

    with system.database.write() as session:
        previous = ""
        for seq, actor in enumerate((NAME, "key:k1"), start=1):
            fields = [previous, 1, "acme", actor, "cube.create", "cube_1", {"person": NAME}]
            digest = sha256(canonical_json(fields))
            session.execute(
                sa.text(
                    "INSERT INTO audit (seq, at_us, tenant, actor, action, object, detail, previous, digest) "
                    "VALUES (:seq, 1, 'acme', :actor, 'cube.create', 'cube_1', :detail, :previous, :digest)"
                ),
                {
                    "seq": seq,
                    "actor": actor,
                    "detail": json.dumps({"person": NAME}),
                    "previous": previous,
                    "digest": digest,
                },
            )
            previous = digest
        session.execute(
            sa.text("INSERT INTO tenants (id, created_us, audit_digest) VALUES ('acme', 1, :d)"),
            {"d": previous},
        )
    text(system, principal("bob"))
    assert system.audit.verify(ADMIN) == []
    erase(eraser)
    assert system.audit.verify(ADMIN) == []
    assert [row for row in rows(system) if NAME.encode() in row] == []
    with system.database.write() as session:
        session.execute(sa.text("UPDATE audit SET digest = 'x' WHERE seq = 1"))
    assert system.audit.verify(ADMIN)
