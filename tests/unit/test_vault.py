"""MemVault on both databases: versions, concurrency, damage, isolation, migrations."""

from __future__ import annotations

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from memos_vllm.config.tree import DatabaseConfig
from memos_vllm.cube.model import (
    Access,
    ActivationPayload,
    CubePatch,
    ExplicitPayload,
    Item,
    MemCube,
    NewCube,
    NewMeta,
    ParametricPayload,
    State,
)
from memos_vllm.errors import (
    ConfigError,
    Conflict,
    DamagedPayload,
    Forbidden,
    NotBuilt,
    NotFound,
    Unprocessable,
    VaultUnavailable,
)
from memos_vllm.governance.principal import Role
from memos_vllm.vault.database import Database
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.outbox import Outbox
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import Base
from memos_vllm.vault.vault import MemVault
from memos_vllm.vault.views import CubeFilter, VaultViews
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")
ADMIN = principal("", role=Role.ADMIN)
STRANGER = principal("alice", tenant="globex", role=Role.ADMIN)


@pytest.fixture
def database(database_url: str):
    opened = Database(database_url)
    opened.migrate()
    yield opened
    opened.dispose()


@pytest.fixture
def vault(database: Database, tmp_path: Path) -> MemVault:
    return MemVault(database, PayloadStore(str(tmp_path / "payloads")))


def cube(*texts: str, **meta) -> NewCube:
    content = [Item(text=text) for text in texts]
    return NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))


def texts_of(found: MemCube) -> list[str]:
    return [item.text for item in found.payload.content]


def test_a_cube_comes_back_in_the_papers_wire_form(vault):
    made = vault.create(ALICE, cube("hello", name="greeting"))
    wire = vault.get(ALICE, "greeting").model_dump(mode="json")
    assert set(wire) == {"meta", "payload"}
    assert wire["payload"]["type"] == "explicit"
    assert wire["payload"]["format"] == "text"
    assert wire["meta"]["id"] == made.meta.id
    assert wire["meta"]["state"] == "activated"


def test_a_person_s_first_cubes_can_be_made_at_the_same_time(vault, database):
    """On Postgres all but one failed with a conflict of names, as each counted the cube of a new owner."""

    def create(number: int) -> MemCube:
        return vault.create(ALICE, cube(f"line {number}"), lambda _: time.sleep(0.1))

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(create, range(4)))) == 4
    (owner,) = VaultViews(database).owners(ALICE)
    assert owner.items == 4


def test_versions_are_kept_and_named_by_their_content(vault):
    first = vault.create(ALICE, cube("one"))
    second = vault.update(ALICE, first.meta.id, CubePatch(append=[Item(text="two")]))
    history = vault.history(ALICE, first.meta.id)
    assert [version.action for version in history] == ["append", "create"]
    assert history[0].parent == first.meta.version
    assert texts_of(vault.get(ALICE, first.meta.id, first.meta.version)) == ["one"]
    assert texts_of(vault.get(ALICE, first.meta.id)) == ["one", "two"]
    difference = vault.diff(ALICE, first.meta.id, first.meta.version)
    assert [item.text for item in difference.added] == ["two"]
    assert difference.newer == second.meta.version


def test_an_unchanged_item_keeps_its_id_and_equal_items_have_their_own(vault):
    made = vault.create(ALICE, cube("same", "same", "other"))
    ids = [item.id for item in made.payload.content]
    assert len(set(ids)) == 3
    changed = vault.update(ALICE, made.meta.id, CubePatch(append=[Item(text="new")]))
    assert [item.id for item in changed.payload.content][:3] == ids


def test_rollback_is_a_new_version_that_loses_nothing(vault):
    first = vault.create(ALICE, cube("one"))
    second = vault.update(
        ALICE, first.meta.id, CubePatch(payload=ExplicitPayload(content=[Item(text="two")]))
    )
    back = vault.rollback(ALICE, first.meta.id, first.meta.version)
    assert texts_of(back) == ["one"]
    assert back.meta.sequence == 3
    assert back.meta.parent == second.meta.version
    assert texts_of(vault.get(ALICE, first.meta.id, second.meta.version)) == ["two"]


def test_a_stale_if_match_is_a_conflict_that_names_the_current_version(vault):
    first = vault.create(ALICE, cube("one"))
    second = vault.update(ALICE, first.meta.id, CubePatch(priority=1))
    with pytest.raises(Conflict, match=second.meta.version):
        vault.update(ALICE, first.meta.id, CubePatch(priority=2), if_match=first.meta.version)
    with pytest.raises(Conflict):
        vault.delete(ALICE, first.meta.id, if_match=first.meta.version)


def test_writers_at_once_lose_nothing(vault):
    made = vault.create(ALICE, cube("start"))

    def add(number: int) -> None:
        vault.update(ALICE, made.meta.id, CubePatch(append=[Item(text=f"item {number}")]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts_of(vault.get(ALICE, made.meta.id))) == sorted(
        ["start", *(f"item {number}" for number in range(12))]
    )
    assert [v.sequence for v in vault.history(ALICE, made.meta.id)] == list(range(13, 0, -1))


def test_another_person_s_cube_looks_like_an_absent_one(vault):
    made = vault.create(ALICE, cube("secret", name="mine"))
    for who in (BOB, STRANGER, principal("")):
        for ref in (made.meta.id, "mine"):
            for action in (vault.get, vault.history, vault.delete):
                with pytest.raises(NotFound) as error:
                    action(who, ref)
                assert error.value.message == f"there is no cube {ref!r} here"
    assert texts_of(vault.get(ADMIN, made.meta.id)) == ["secret"]


def test_shared_cubes_are_read_by_their_readers_and_written_by_admins(vault):
    with pytest.raises(Forbidden):
        vault.create(ALICE, cube("x", shared=True))
    everyone = vault.create(ADMIN, cube("house rules", shared=True))
    few = vault.create(ADMIN, cube("salaries", shared=True, access=Access(readers=["bob"])))
    open_ = vault.create(ADMIN, cube("wiki", shared=True, access=Access(writers="tenant")))
    assert texts_of(vault.get(ALICE, everyone.meta.id)) == ["house rules"]
    assert texts_of(vault.get(BOB, few.meta.id)) == ["salaries"]
    with pytest.raises(NotFound):
        vault.get(ALICE, few.meta.id)
    with pytest.raises(Forbidden):
        vault.update(ALICE, everyone.meta.id, CubePatch(priority=1))
    assert vault.update(ALICE, open_.meta.id, CubePatch(priority=1)).meta.priority == 1


def test_a_writer_cannot_make_a_cube_for_another_person(vault):
    with pytest.raises(Forbidden):
        vault.create(ALICE, cube("planted", person="bob"))
    assert vault.create(ADMIN, cube("given", person="bob")).meta.person == "bob"


def test_the_persons_own_name_comes_before_the_tenants(vault):
    vault.create(ADMIN, cube("shared", shared=True, name="notes"))
    assert texts_of(vault.get(ALICE, "notes")) == ["shared"]
    vault.create(ALICE, cube("own", name="notes"))
    assert texts_of(vault.get(ALICE, "notes")) == ["own"]
    with pytest.raises(Conflict):
        vault.create(ALICE, cube("again", name="notes"))


def test_batches_are_all_or_nothing(vault, database):
    vault.create(ALICE, cube("x", name="taken"))
    with pytest.raises(Conflict):
        vault.create_many(ALICE, [cube("y", name="free"), cube("z", name="taken")])
    headers, _ = VaultViews(database).page(ALICE, CubeFilter())
    assert [header.name for header in headers] == ["taken"]


def test_an_idempotency_key_gives_the_first_cubes_again_even_at_once(vault, database):
    key = IdempotencyKey("k", "digest")
    made: list[str] = []

    def send() -> None:
        made.append(vault.create_many(ALICE, [cube("once")], key)[0].meta.id)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1
    with pytest.raises(Conflict):
        vault.create_many(ALICE, [cube("other")], IdempotencyKey("k", "another digest"))
    assert vault.create_many(BOB, [cube("once")], key)[0].meta.id not in made


def test_a_damaged_payload_is_reported_and_never_empty(vault, tmp_path):
    made = vault.create(ALICE, cube("precious"))
    newer = vault.update(ALICE, made.meta.id, CubePatch(append=[Item(text="more")]))
    digest = vault.history(ALICE, made.meta.id)[0].payload_sha256
    (file,) = (tmp_path / "payloads").rglob(f"{digest}.json")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DamagedPayload, match="checksum"):
        vault.get(ALICE, made.meta.id)
    file.unlink()
    with pytest.raises(DamagedPayload, match="missing"):
        vault.get(ALICE, made.meta.id, newer.meta.version)
    assert texts_of(vault.get(ALICE, made.meta.id, made.meta.version)) == ["precious"]


def test_states_follow_the_life_cycle(vault, database):
    made = vault.create(ALICE, cube("x"))
    admin = dataclasses.replace(ALICE, role=Role.ADMIN)
    frozen = vault.update(admin, made.meta.id, CubePatch(state=State.FROZEN, reason="case 7"))
    with pytest.raises(Unprocessable, match="frozen"):
        vault.update(ALICE, frozen.meta.id, CubePatch(append=[Item(text="y")]))
    with pytest.raises(Unprocessable, match="cannot become merged"):
        vault.update(ALICE, frozen.meta.id, CubePatch(state=State.MERGED))
    vault.update(admin, frozen.meta.id, CubePatch(state=State.ARCHIVED, reason="closed"))
    views = VaultViews(database)
    ids = [item.id for item in made.payload.content]
    assert views.recall(ALICE, ids) == {}, "an archived cube is in no prompt"


def test_an_expired_cube_is_in_no_prompt(vault, database):
    made = vault.create(ALICE, cube("soon gone", ttl_seconds=3600))
    ids = [item.id for item in made.payload.content]
    views = VaultViews(database)
    assert set(views.recall(ALICE, ids)) == set(ids)
    with database.write() as session:
        session.execute(sa.text("UPDATE cubes SET expires_us = 1"))
    assert views.recall(ALICE, ids) == {}
    assert vault.get(ALICE, made.meta.id).meta.state == State.EXPIRED


def test_storing_activation_memory_is_refused_with_a_reason(vault):
    with pytest.raises(NotBuilt, match="activation"):
        vault.create(ALICE, NewCube(payload=ActivationPayload(type="activation")))
    with pytest.raises(Unprocessable, match="checked"):
        vault.create(ALICE, NewCube(payload=ParametricPayload()))


def test_deleting_leaves_no_row_and_no_byte(vault, database, tmp_path):
    text = "the quick ZEBRA jumps"
    made = vault.create(ALICE, cube(text))
    vault.update(ALICE, made.meta.id, CubePatch(append=[Item(text="more ZEBRA")]))
    vault.delete(ALICE, made.meta.id)
    outbox, payloads = Outbox(database), PayloadStore(str(tmp_path / "payloads"))
    for work in outbox.pending():
        assert work.drop
        assert not work.upserts
        payloads.delete_cube(work.owner.tenant, work.cube)
        outbox.done([work])
    with database.read() as session:
        for table in ("cubes", "versions", "items", "outbox"):
            assert session.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0, table
    database.dispose()  # SQLite writes its log back into the file
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"ZEBRA" in path.read_bytes()]


def test_pages_hold_every_cube_once(vault, database):
    made = [vault.create(ALICE, cube(str(n))).meta.id for n in range(7)]
    views, seen, cursor = VaultViews(database), [], None
    while True:
        page, cursor = views.page(ALICE, CubeFilter(), cursor, limit=3)
        seen += [header.id for header in page]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_the_schema_is_what_the_tables_say(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_database_from_the_future_is_refused_and_untouched(database_url):
    database = Database(database_url)
    database.migrate()
    with database.write() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer"):
        Database(database_url).migrate()
    with database.read() as session:
        assert session.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_locked_vault_raises_vault_unavailable(tmp_path):
    url = f"sqlite:///{tmp_path / 'v.sqlite'}"
    holder, waiter = Database(url), Database(url, DatabaseConfig(busy_timeout_seconds=0.1))
    holder.migrate()
    vault = MemVault(waiter, PayloadStore(str(tmp_path / "p")))
    with holder.write() as session:
        session.execute(sa.text("DELETE FROM settings"))  # takes the write lock
        with pytest.raises(VaultUnavailable, match="locked"):
            vault.create(ALICE, cube("x"))
    assert texts_of(vault.create(ALICE, cube("x"))) == ["x"]
