"""Grants on both databases: the upgrade of access lists, and the rules in each dialect."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from memos_vllm.cube.model import Access, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import Forbidden
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Role
from memos_vllm.vault import grants, lookup, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.grants import Grants, Subject
from memos_vllm.vault.groups import Groups
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow
from memos_vllm.vault.vault import MemVault
from memos_vllm.vault.views import CubeFilter, VaultViews
from tests.conftest import principal
from tests.unit.test_vault_migration import downgrade

ADMIN = principal("", role=Role.ADMIN)
PEOPLE = [principal(name, role=role) for name in ("", "ann", "bob", "cy") for role in Role]
LISTS = [
    Access(),
    Access(readers=["ann", "жé", "x" * 300]),
    Access(readers=[]),
    Access(readers=["bob"], writers="tenant"),
    Access(writers="tenant"),
]


class Parts:
    def __init__(self, url, folder):
        self.database = Database(url)
        self.database.migrate()
        self.vault = MemVault(self.database, PayloadStore(str(folder / "payloads")))
        self.views = VaultViews(self.database)

    def create(self, owner, **meta):
        new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=[Item(text="Text.")]))
        return self.vault.create(owner, new).meta.id

    def rights(self):
        with self.database.read() as session:
            rows = session.scalars(sa.select(CubeRow).order_by(CubeRow.id)).all()
            return [
                (who.person, who.role, row.id, lookup.held(session, who, row))
                for who in PEOPLE
                for row in rows
            ]


@pytest.fixture
def parts(database_url, tmp_path):
    made = Parts(database_url, tmp_path)
    yield made
    made.database.dispose()


def test_access_lists_of_the_older_schema_become_grants(parts):
    for number, access in enumerate(LISTS):
        parts.create(ADMIN, name=f"n{number}", shared=True, access=access)
    parts.create(principal("ann"), access=Access(readers=["bob"], writers="tenant"))
    before = parts.rights()
    assert any(Permission.USE in held for *_, held in before)
    downgrade(parts, "0009")
    with parts.database.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT access FROM cubes WHERE name = 'n3'")).scalar()
    assert (json.loads(stored) if isinstance(stored, str) else stored)["readers"] == ["bob"]
    parts.database.migrate()
    assert parts.rights() == before
    own = [held for person, role, _, held in parts.rights() if (person, role) == ("bob", "writer")]
    assert own.count(frozenset()) == 3, "a person's cube ignores its list"


def test_the_condition_of_sql_and_the_pure_rules_agree(parts):
    shared = parts.create(ADMIN, shared=True)
    of_bob = parts.create(principal("bob"))
    manager, groups = Grants(parts.database), Groups(parts.database)
    groups.create(ADMIN, "crew")
    for name in ("ann", "cy"):
        groups.add(ADMIN, "crew", name)
    crew, everyone = Subject(SubjectKind.GROUP, "crew"), Subject(SubjectKind.TENANT)
    readers = Subject(SubjectKind.ROLE, "reader")
    steps = [
        lambda: manager.put(principal("bob"), of_bob, crew, Effect.ALLOW, [Permission.WRITE]),
        lambda: manager.put(ADMIN, of_bob, everyone, Effect.ALLOW, [Permission.USE]),
        lambda: manager.put(ADMIN, shared, readers, Effect.DENY, [Permission.READ]),
        lambda: groups.remove(ADMIN, "crew", "cy"),
        lambda: groups.delete(ADMIN, "crew"),
    ]
    seen = set()
    for step in steps:
        step()
        held = {(person, role, cube): found for person, role, cube, found in parts.rights()}
        seen.add(frozenset(held.items()))
        with parts.database.read() as session:
            for who in PEOPLE:
                for permission in (Permission.READ, Permission.USE):
                    wanted = {
                        cube
                        for cube in (shared, of_bob)
                        if permission in held[who.person, who.role, cube]
                    }
                    for rule in (records.visible_to, records.all_visible_to):
                        query = sa.select(CubeRow.id).where(rule(who, permission))
                        assert set(session.scalars(query)) == wanted
        for who in PEOPLE:
            listed = {header.id for header in parts.views.page(who, CubeFilter())[0]}
            assert listed == {
                c for c in (shared, of_bob) if "read" in held[who.person, who.role, c]
            }
    assert len(seen) == len(steps), "each step changes something"
    with pytest.raises(Forbidden):
        manager.put(principal("cy"), shared, everyone, Effect.ALLOW, [Permission.READ])
    with parts.database.write() as session:
        assert grants.forget_person(session, "acme", "cy") == 0
