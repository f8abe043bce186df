"""Secrets from outside, and their rotation while servers run."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer
from memos_vllm.activation.tombstones import short
from memos_vllm.config.secrets import CACHE_SALT, PERSON_TOKENS, SecretsConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import ConfigError, Conflict, Unauthorized
from memos_vllm.governance import tokens
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.governance.scope import Scopes
from memos_vllm.governance.secret_sources import read_secrets
from memos_vllm.system import MemorySystem
from memos_vllm.vault.secret_ring import SecretRing
from tests.conftest import make_config, principal
from tests.engine.harness import wait_for
from tests.unit.test_audit import ADMIN, add
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_store import MODEL, open_keeper

OLD, NEW = "0a" * 32, "0b" * 32
BOTH = (bytes.fromhex(OLD), bytes.fromhex(NEW))
ALICE = principal("alice")


def test_a_file_the_environment_and_a_command_give_secrets(tmp_path, monkeypatch):
    file = tmp_path / "a b.keys"
    file.write_text(f"{OLD}\n{NEW}\n")
    monkeypatch.setenv("MEMOS_TEST_KEYS", f"{OLD} {NEW}")
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(f'print({OLD!r}); print({NEW!r})')}"
    for source in (f"file:{file}", "env:MEMOS_TEST_KEYS", f"exec:{command}"):
        assert read_secrets(source) == BOTH, source


@pytest.mark.parametrize(
    "source",
    [
        "file:/does/not/exist",
        "env:MEMOS_TEST_NOT_SET",
        "exec:",
        "exec:false",
        "exec:no-such-program",
        "exec:echo abc",
        "exec:echo $(id)",
        "https://127.0.0.1:9/keys",
        "ftp://example.com/",
    ],
)
def test_a_source_without_secrets_is_an_error_that_holds_none(source):
    with pytest.raises(ConfigError) as refused:
        read_secrets(source)
    assert "abc" not in str(refused.value)


class KeyService(HTTPServer):
    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.seen = answer, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("X-Vault-Token")))
        self.send_response(200 if self.headers.get("X-Vault-Token") == "t0ken" else 403)
        self.end_headers()
        self.wfile.write(self.server.answer.encode())

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (json.dumps({"data": {"data": {"keys": f"{OLD}\n{NEW}"}, "metadata": {}}}), ""),
        (json.dumps({"data": {"salt": [OLD, NEW]}}), "#salt"),
        (json.dumps({"salt": f"{OLD} {NEW}"}), "#salt"),
        (f"{OLD}\n{NEW}\n", ""),
    ],
    ids=["Vault, KV 2", "Vault, KV 1", "an object", "text"],
)
def test_a_key_service_gives_secrets_to_a_token(tmp_path, answer, field):
    service = KeyService(answer)
    (tmp_path / "token").write_text("t0ken\n")
    source = f"http://127.0.0.1:{service.server_port}/v1/secret/data/memos{field}"
    try:
        assert read_secrets(source, f"file:{tmp_path / 'token'}") == BOTH
        assert service.seen[0][0] == "/v1/secret/data/memos"
        with pytest.raises(ConfigError, match="403"):
            read_secrets(source)
    finally:
        service.shutdown()
        service.server_close()


@pytest.mark.parametrize("source", ["vault:x", "http://example.com/x", "/etc/keys"])
def test_the_configuration_refuses_other_sources(tmp_path, source):
    with pytest.raises(ConfigError, match="source"):
        make_config(tmp_path, governance={"secrets": {"cache_salt": source}})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "outside.keys"
    path.write_text(f"{OLD}\n")
    return path


def opened(tmp_path, file, *names):
    secrets = dict.fromkeys(names, f"file:{file}") | {"refresh_seconds": 0.05}
    return MemorySystem(make_config(tmp_path, governance={"secrets": secrets})).open()


def test_a_secret_is_rotated_while_the_server_runs(tmp_path, file):
    system = opened(tmp_path, file, CACHE_SALT, PERSON_TOKENS, "audit")
    try:
        _, key = system.keys.create("acme", Role.WRITER)
        writer = system.keys.authenticate(key)
        _, token = system.keys.tokens.create(writer, "ann", [Scope.CHAT], 600)
        add(system, "signed with the old key")
        scope = system.scopes.person(ALICE)
        file.write_text(f"{OLD}\n{NEW}\n")
        wait_for(lambda: system.scopes.person(ALICE) != scope, "the new secret", 10)
        wait_for(lambda: len(system.keys.secrets.all(PERSON_TOKENS)) == 2, "the new secret", 10)
        assert system.scopes.every_person(ALICE)[1] == scope
        assert system.keys.authenticate(token).person == "ann"
        system.audit.checkpoint()
        wait_for(lambda: system.database.audit_keys.reload() or True, "the new key", 10)
        add(system, "signed with the new key")
        assert len({record["mac_key"] for record in system.audit.read(ADMIN)[-2:]}) >= 1
        assert system.audit.verify(ADMIN) == []
        file.unlink()  # a source that is away changes nothing
        system.keys.secrets.all(PERSON_TOKENS)
        assert system.keys.authenticate(token).person == "ann"
        file.write_text(f"{NEW}\n")
        wait_for(lambda: len(system.keys.secrets.all(PERSON_TOKENS)) == 1, "the removal", 10)
        with pytest.raises(Unauthorized):
            system.keys.authenticate(token)
    finally:
        system.close()


def test_audit_keys_of_a_source_sign_and_are_never_written_to_the_home(tmp_path, file):
    system = opened(tmp_path, file, "audit")
    try:
        add(system, "one")
        assert system.database.audit_keys.current.id == AuditKeys(file).current.id
        assert not (tmp_path / "audit.keys").exists()
        with pytest.raises(ConfigError, match="source"):
            system.database.audit_keys.rotate()
    finally:
        system.close()


def test_the_database_s_own_secret_is_rotated_by_a_command(system):
    first = system.database.secret(CACHE_SALT)
    before = system.keys.secrets.all(CACHE_SALT)
    assert before == (first,)
    system.keys.secrets.rotate(CACHE_SALT)
    after = system.keys.secrets.all(CACHE_SALT)
    assert after[1:] == before
    assert system.database.secret(CACHE_SALT) == after[0] != first


def test_an_erasure_wipes_the_kv_of_every_secret(system):
    system.keys.secrets.rotate(CACHE_SALT)
    scopes = system.scopes.every_person(ALICE)
    assert len(scopes) == 2
    begun = Eraser(system).request(principal("", role=Role.ADMIN), ALICE.person)
    assert system.erasures.find(begun.id).work["scopes"] == scopes


def test_a_secret_with_a_source_is_rotated_there(system, file):
    ring = SecretRing(system.database, SecretsConfig(cache_salt=f"file:{file}"))
    with pytest.raises(Conflict, match="add a new secret there"):
        ring.rotate(CACHE_SALT)


def test_a_first_source_continues_the_database_s_secret(system, file):
    made = system.database.secret(CACHE_SALT)
    ring = SecretRing(system.database, SecretsConfig(cache_salt=f"file:{file}"))
    assert ring.all(CACHE_SALT) == (bytes.fromhex(OLD), made)


def test_a_token_of_no_known_secret_is_refused():
    claims = tokens.TokenClaims("t", "acme", "ann", "k", frozenset({Scope.CHAT}), 2 * now_us())
    token = tokens.sign(b"x" * 32, "kid", claims, now_us())
    assert tokens.verify([b"y" * 32, b"x" * 32], ["kid"], token).person == "ann"
    for secrets in ([b"y" * 32], []):
        with pytest.raises(Unauthorized):
            tokens.verify(secrets, ["kid"], token)


class Rotated:
    """A prompt whose KV an older secret named."""

    tokens = list(range(500, 640))

    def __init__(self, folder):
        self.keeper = open_keeper(folder)
        self.secrets = [BOTH[0]]
        self.scopes = Scopes(lambda: tuple(self.secrets), "person")
        self.namer = Namer(MODEL)

    def segments(self):
        tenant, mine = self.scopes.tenant(ALICE), self.scopes.person(ALICE)
        return [
            Segment(40, tenant),
            Segment(80, tenant, ("a@1",)),
            Segment(140, mine, ("a@1", "b@2")),
        ]

    def keep(self):
        segments = self.segments()
        starts = [0, *(segment.end for segment in segments)]
        names = self.namer.names(self.tokens, segments)
        for i, (segment, (name,)) in enumerate(zip(segments, names, strict=True)):
            shape = Shape(2, segment.end - starts[i], 1, 8, torch.float32)
            digest = own_digest(self.tokens[starts[i] : segment.end])
            about = {"digest": digest, "scope": short(segment.scope)}
            assert self.keeper.add(name, shape, layers_of(shape), segment.cubes, about)

    def read(self):
        found = []
        for (name,) in self.namer.names(self.tokens, self.segments()):
            with self.keeper.open(name) as (reader, _):
                assert reader.metadata["scope"] == name.scope
                found.append(
                    torch.cat([each.clone().flatten() for each in reader.layers(Scratch())])
                )
        return found


@pytest.fixture
def rotated(tmp_path):
    made = Rotated(tmp_path)
    made.keep()
    made.before = made.read()
    made.secrets.insert(0, BOTH[1])
    return made


async def test_kv_under_an_older_secret_moves_to_the_newest_one(rotated):
    pytest.importorskip("vllm")
    from memos_vllm.engine.kv_plan.rekey import Rekeyer

    rekeyer = Rekeyer(rotated.keeper, rotated.namer, rotated.scopes)
    store = rotated.keeper.segments
    files = sum(1 for _ in store.disk.names())
    assert await rekeyer.move(ALICE, None, rotated.tokens, rotated.segments()) == 3
    after = rotated.read()
    assert all(torch.equal(*pair) for pair in zip(rotated.before, after, strict=True))
    assert sum(1 for _ in store.disk.names()) == files, "the older files are wiped"
    assert await rekeyer.move(ALICE, None, rotated.tokens, rotated.segments()) == 0
    assert await rekeyer.move(principal("bob"), None, rotated.tokens, rotated.segments()) == 0
    assert store.forget("b") == 1, "its marks moved, too"


async def test_deleted_kv_does_not_come_back_by_a_move(rotated):
    pytest.importorskip("vllm")
    from memos_vllm.engine.kv_plan.rekey import Rekeyer

    segments = rotated.segments()
    store = rotated.keeper.segments
    for scope in rotated.scopes.every_person(ALICE):
        store.forget_scope(scope)
    store.forget("a")
    rekeyer = Rekeyer(rotated.keeper, rotated.namer, rotated.scopes)
    assert await rekeyer.move(ALICE, None, rotated.tokens, segments) <= 1  # the head alone
    assert len(list(store.disk.names())) <= 1
