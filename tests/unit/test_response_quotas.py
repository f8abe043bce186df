"""Quotas of stored responses: count and bytes of a person and a tenant, and what gives room again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.config.limits import LimitsPolicyConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.engine.doors.responses import ResponsesMemory
from memos_vllm.erasure.eraser import Eraser
from memos_vllm.errors import QuotaExceeded
from memos_vllm.governance.limits.policy import LimitsPolicy
from memos_vllm.governance.principal import Role
from memos_vllm.options import MemoryOptions
from memos_vllm.system import MemorySystem
from memos_vllm.vault.quotas import Quotas
from memos_vllm.vault.responses import ResponseStore
from tests.conftest import freeze, make_config, principal
from tests.unit.test_response_store import reply, said
from tests.unit.test_vault_migration import downgrade

ALICE, BOB = principal("alice"), principal("bob")


@pytest.fixture
def vault(tmp_path, database_url):
    opened = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    yield opened
    opened.close()


@pytest.fixture
def store(vault) -> ResponseStore:
    return ResponseStore(vault.database, 30, vault.redactors)


def limit(vault, **limits) -> None:
    policy = LimitsPolicy(LimitsPolicyConfig(**limits))
    vault.limits_of = policy.limits_of
    vault.quotas = vault.database.quotas = Quotas(policy.limits_of)


def used(vault, person: str = "alice") -> tuple[int, int]:
    use = vault.quotas.stored(vault.database, "acme", person)
    return use.responses, use.response_bytes


def true_use(vault, person: str = "alice") -> tuple[int, int]:
    """Counted in the tables themselves."""
    query = sa.text(
        "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM (SELECT person, bytes FROM responses UNION ALL "
        "SELECT person, bytes FROM conversations) AS stored WHERE person = :person"
    )
    with vault.database.read() as session:
        count, size = session.execute(query, {"person": person}).one()
        return count, int(size)


@pytest.mark.parametrize(
    ("limits", "whose"),
    [
        ({"person_responses": 2}, "the person's quota of stored responses is full: 2"),
        ({"responses": 2}, "the tenant's quota of stored responses is full: 2"),
        ({"person_response_bytes": 300}, "the person's quota of bytes of stored responses"),
        ({"response_bytes": 300}, "the tenant's quota of bytes of stored responses"),
    ],
)
def test_a_full_quota_refuses_the_next_reply_before_it_is_computed(vault, store, limits, whose):
    limit(vault, **limits)
    for name in "ab":
        store.check_room(ALICE, [said(name)])
        store.put(ALICE, reply(name, name))
    with pytest.raises(QuotaExceeded, match=whose) as refused:
        store.check_room(ALICE, [said("c" * 100)])
    assert "`DELETE /v1/responses/{id}`" in refused.value.message
    assert "`store: false`" in refused.value.message
    store.delete(ALICE, "resp_a")
    store.check_room(ALICE, [said("c")])


def test_a_persons_quota_is_the_persons_alone(vault, store):
    limit(vault, person_responses=1)
    store.put(ALICE, reply("a", "a"))
    with pytest.raises(QuotaExceeded):
        store.check_room(ALICE, [said("b")])
    store.check_room(BOB, [said("b")])
    store.check_room(principal("alice", "globex"), [said("b")])


def test_a_request_that_alone_exceeds_the_quota_is_refused(vault, store):
    limit(vault, person_response_bytes=1000)
    with pytest.raises(QuotaExceeded):
        store.check_room(ALICE, [said("x" * 1001)])


def test_an_accepted_reply_is_stored_also_where_the_quota_is_full_by_then(vault, store):
    limit(vault, responses=1)
    store.check_room(ALICE, [said("a")])
    store.put(BOB, reply("b", "b"))
    assert store.put(ALICE, reply("a", "a"))
    assert used(vault) == true_use(vault)


def test_every_deletion_gives_back_what_it_took(vault, store):
    for name in "abcd":
        store.put(ALICE, reply(name, name * 50))
    thread = store.create(ALICE, {"topic": "tea"}, [said("hello")])
    for name in "ef":
        store.put(ALICE, reply(name, name, conversation=thread.id))
    assert used(vault) == true_use(vault)
    assert used(vault)[0] == 7
    store.delete(ALICE, "resp_a")
    assert used(vault) == true_use(vault)
    vault.forgotten.forget_replies(ALICE, "none", ["resp_b"])
    assert used(vault) == true_use(vault)
    assert used(vault)[0] == 5
    store.delete_conversation(ALICE, thread.id)
    assert used(vault) == true_use(vault)
    assert used(vault)[0] == 2
    store.create(ALICE, {}, [said("x" * 500)])
    vault.forgotten.forget_all_replies(ALICE, None)
    assert used(vault) == true_use(vault)
    assert used(vault)[0] == 1, "an emptied conversation stays"
    assert used(vault)[1] < 100


def test_replies_that_have_expired_give_way(vault):
    limit(vault, person_responses=1)
    short = ResponseStore(vault.database, 1e-9, vault.redactors)
    short.put(ALICE, reply("a", "a"))
    assert used(vault)[0] == 1
    short.check_room(ALICE, [said("b")])
    assert used(vault) == (0, 0)


def test_a_conversation_counts_and_is_refused_with_the_envelope(vault):
    limit(vault, person_responses=1)
    _, key = vault.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    http = TestClient(create_app(vault), headers=headers)
    assert http.post("/v1/conversations", json={}).status_code == 200
    refused = http.post("/v1/conversations", json={"items": [said("hello")]})
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "insufficient_quota"
    mine = http.get("/v1/memory/use").json()["person"]
    assert mine["responses"] == {"used": 1, "limit": 1}
    assert mine["response_bytes"]["used"] > 0
    assert mine["response_bytes"]["limit"] is None


def test_an_erasure_leaves_no_count(vault, store):
    store.put(ALICE, reply("a", "a"))
    Eraser(vault).request(principal("admin", role=Role.ADMIN), "alice")
    assert used(vault) == (0, 0)


def test_an_erasure_that_leaves_frozen_cubes_leaves_no_count_either(vault, store):
    new = NewCube(meta=NewMeta(person="alice"), payload=ExplicitPayload(content="Tea."))
    freeze(vault, vault.create(ALICE, [new])[0].meta.id)
    store.put(ALICE, reply("a", "a"))
    Eraser(vault).request(principal("admin", role=Role.ADMIN), "alice", keep_frozen=True)
    assert vault.quotas.stored(vault.database, "acme", "alice").cubes == 1
    assert used(vault) == (0, 0)


def test_a_reply_does_not_change_the_revision_of_memory(vault, store):
    def revision() -> int:
        with vault.database.read() as session:
            query = sa.text("SELECT revision FROM owners WHERE person = 'alice'")
            return int(session.execute(query).scalar_one())

    store.put(ALICE, reply("a", "a"))
    before = revision()
    store.put(ALICE, reply("b", "b"))
    assert revision() == before


def test_the_migration_counts_what_is_stored(vault, store):
    store.put(ALICE, reply("a", "a" * 1000))
    store.create(BOB, {}, [said("hello")])
    with vault.database.write() as session:
        session.execute(sa.text("DELETE FROM owners"))
    downgrade(vault, "0015")
    vault.database.migrate()
    assert used(vault) == true_use(vault)
    assert used(vault, "bob") == true_use(vault, "bob")
    assert used(vault)[0] == used(vault, "bob")[0] == 1
    assert used(vault)[1] > 1000


# -- the route --------------------------------------------------------------------------------------


class FakeRaw:
    """A request of which the door reads the body."""

    def __init__(self, body: dict) -> None:
        self._body, self.state = body, SimpleNamespace()

    async def json(self) -> dict:
        return self._body


class FakeRequest(SimpleNamespace):
    def model_copy(self, update: dict) -> FakeRequest:
        return FakeRequest(**{**vars(self), **update})


async def opened(door: ResponsesMemory, **fields) -> FakeRaw:
    raw = FakeRaw({"input": "Hello."})
    request = FakeRequest(
        previous_response_id=None, conversation=None, instructions=None, store=None
    )
    await door.opened(request.model_copy(fields), raw, ALICE, MemoryOptions())
    return raw


async def test_a_request_that_would_be_stored_is_refused_and_one_that_would_not_is_answered(
    vault, store
):
    limit(vault, person_responses=1)
    serving = SimpleNamespace(create_responses=None)
    door = ResponsesMemory(serving, SimpleNamespace(), SimpleNamespace(), store)
    assert (await opened(door)).state.memos_thread.kept_no is None
    store.put(ALICE, reply("a", str(now_us())))
    with pytest.raises(QuotaExceeded, match="person's quota of stored responses"):
        await opened(door)
    assert "store" in (await opened(door, store=False)).state.memos_thread.kept_no
