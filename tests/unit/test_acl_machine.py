"""Any sequence of grants, groups, access lists, deletions and time gives what a small model of the rules says.

The model knows sets and loops, no SQL; the vault is the real one.  After each step every principal tries
every way to every cube.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memos_vllm.cube.model import Access, CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import BadRequest, Forbidden, MemosError, NotFound
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import grants as vault_grants
from memos_vllm.vault import lookup, records
from memos_vllm.vault.audit_log import AuditLog
from memos_vllm.vault.database import Database
from memos_vllm.vault.grants import Grants, Subject
from memos_vllm.vault.groups import Groups
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow
from memos_vllm.vault.vault import MemVault
from memos_vllm.vault.views import CubeFilter, VaultViews
from tests.conftest import principal
from tests.effort import examples

PEOPLE = ("ann", "bob", "cy", "жé '%_/")
GROUPS = ("red", "blue")
ADMIN = principal("", role=Role.ADMIN)
CALLERS = [principal(name) for name in PEOPLE] + [
    principal(""),
    principal("ann", role=Role.READER),
    principal("bob", role=Role.ADMIN),
    principal("ann", tenant="globex", role=Role.ADMIN),
    dataclasses.replace(principal("cy", role=Role.READER), token_id="token"),
]
ACTORS = st.sampled_from(CALLERS)
SUBJECTS = st.sampled_from(
    [("person", name) for name in PEOPLE]
    + [("group", name) for name in GROUPS]
    + [("role", "writer"), ("role", "reader"), ("tenant", "")]
)
PERMISSIONS = st.sets(st.sampled_from([str(each) for each in Permission]), min_size=1, max_size=3)
READERS = st.one_of(st.none(), st.lists(st.sampled_from(PEOPLE), max_size=2, unique=True))
CHANGING = {"write", "share", "administer"}


@dataclasses.dataclass
class ModelGrant:
    subject: tuple[str, str]
    effect: str
    permissions: set[str]
    end: int | None
    maker: str | None


@dataclasses.dataclass
class ModelCube:
    owner: str
    item: str
    readers: list[str] | None = None
    open_to_writers: bool = False
    grants: list[ModelGrant] = dataclasses.field(default_factory=list)


class Model:
    """The rules in plain words."""

    def __init__(self) -> None:
        self.cubes: dict[str, ModelCube] = {}
        self.groups: dict[str, set[str]] = {}
        self.clock = 0

    def names(self, grant: ModelGrant, who: Principal) -> bool:
        kind, name = grant.subject
        if kind == "person":
            return name == who.person != ""
        if kind == "group":
            return who.person in self.groups.get(name, set())
        if kind == "role":
            return name == who.role or (bool(who.token_id) and grant.effect == "deny")
        return True

    def alive(self, grant: ModelGrant) -> bool:
        return grant.end is None or grant.end > self.clock

    def may(self, who: Principal, cube: ModelCube, permission: str) -> bool:
        if who.tenant != "acme":
            return False
        if cube.owner and who.person == cube.owner:
            return True
        if who.role == Role.ADMIN and permission != "use":
            return True
        mine = [g for g in cube.grants if self.alive(g) and self.names(g, who)]
        if any(g.effect == "deny" and permission in g.permissions for g in mine):
            return False
        for grant in (g for g in mine if g.effect == "allow" and permission in g.permissions):
            by_key = grant.subject[0] in ("role", "tenant") and permission in CHANGING
            if not (by_key and who.token_id):
                return True
        if cube.owner:
            return False
        if permission in ("read", "use"):
            return cube.readers is None or (who.person != "" and who.person in cube.readers)
        return permission == "write" and cube.open_to_writers and not who.token_id

    def may_end(self, who: Principal, cube: ModelCube) -> bool:
        is_common = not cube.owner and cube.open_to_writers
        return self.may(who, cube, "write" if is_common else "administer")

    def until(self, who: Principal, cube: ModelCube) -> int | None:
        ends = [
            g.end
            for g in cube.grants
            if g.effect == "allow" and self.alive(g) and self.names(g, who) and g.end is not None
        ]
        return min(ends, default=None)

    def may_give(self, who: Principal, cube: ModelCube, new: ModelGrant) -> bool:
        if self.may(who, cube, "administer"):
            if who.role == Role.ADMIN or who.person == cube.owner != "":
                return True
        elif not (
            self.may(who, cube, "share")
            and new.effect == "allow"
            and all(p in ("read", "use", "write") for p in new.permissions)
            and all(self.may(who, cube, p) for p in new.permissions)
        ):
            return False
        until = self.until(who, cube)
        return until is None or (new.end is not None and new.end <= until)

    def lapse(self) -> None:
        for cube in self.cubes.values():
            while True:
                gone = [
                    g
                    for g in cube.grants
                    if g.maker is not None
                    and self.alive(g)
                    and not self.may_give(principal(g.maker), cube, g)
                ]
                if not gone:
                    break
                cube.grants = [g for g in cube.grants if g not in gone]


class AclMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        url = f"sqlite:///{self.folder / 'vault.sqlite'}"
        self.database = Database(url, audit_keys=AuditKeys(self.folder / "audit.keys"))
        self.database.migrate()
        self.vault = MemVault(self.database, PayloadStore(str(self.folder / "payloads")))
        self.views = VaultViews(self.database)
        self.grants, self.groups = Grants(self.database), Groups(self.database)
        self.model = Model()
        self.start = records.now_us()
        self.patches = [
            mock.patch.object(module, "now_us", self.now)
            for module in (records, lookup, vault_grants)
        ]
        for each in self.patches:
            each.start()

    def now(self) -> int:
        return self.start + self.model.clock * 1_000_000

    def teardown(self) -> None:
        for each in self.patches:
            each.stop()
        assert AuditLog(self.database).verify(ADMIN) == []
        self.database.dispose()
        shutil.rmtree(self.folder)

    def some_cube(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.cubes)))

    def attempt(self, action, expected) -> bool:
        """Run an action; it must end with the error that the model expects (None: none)."""
        if expected is not None:
            with pytest.raises(expected):
                action()
            return False
        action()
        return True

    @precondition(lambda self: len(self.model.cubes) < 4)
    @rule(owner=st.sampled_from(["", *PEOPLE[:2]]), readers=READERS, writers=st.booleans())
    def create(self, owner: str, readers: list[str] | None, writers: bool) -> None:
        access = Access(readers=readers, writers="tenant" if writers else "admin")
        meta = NewMeta(shared=not owner, person=owner or None, access=access, placement="stable")
        new = NewCube(meta=meta, payload=ExplicitPayload(content=[Item(text="A text.")]))
        made = self.vault.create(ADMIN, new)
        self.model.cubes[made.meta.id] = ModelCube(owner, made.items[0].id, readers, writers)

    @precondition(lambda self: self.model.cubes)
    @rule(
        data=st.data(),
        actor=ACTORS,
        subject=SUBJECTS,
        effect=st.sampled_from(["allow", "allow", "deny"]),
        permissions=PERMISSIONS,
        seconds=st.sampled_from([None, None, 1, 3]),
    )
    def put(self, data, actor, subject, effect, permissions, seconds) -> None:
        ref = self.some_cube(data)
        cube, whole = self.model.cubes[ref], set(permissions)
        if effect == "deny":
            whole |= CHANGING if "read" in whole else set()
        elif whole & CHANGING:
            whole |= {"read"} | ({"write", "share"} if "administer" in whole else set())
        end = None if seconds is None else self.model.clock + seconds
        is_own = actor.role == Role.ADMIN or actor.person == cube.owner != ""
        new = ModelGrant(subject, effect, whole, end, None if is_own else actor.person)
        before = [g for g in cube.grants if (g.subject, g.effect) == (subject, effect)]
        expected: type[MemosError] | None = None
        administers = self.model.may(actor, cube, "administer")
        if not self.model.may(actor, cube, "read") or (
            subject[0] == "group" and subject[1] not in self.model.groups
        ):
            expected = NotFound
        elif (
            actor.role == Role.READER
            or not self.model.may_give(actor, cube, new)
            or (not administers and any(g.maker != actor.person for g in before))
        ):
            expected = Forbidden
        elif subject == ("person", cube.owner):
            expected = BadRequest
        wanted = [Permission(each) for each in permissions]
        expires = None if end is None else self.start + end * 1_000_000

        def action() -> None:
            kind = Subject(SubjectKind(subject[0]), subject[1])
            self.grants.put(actor, ref, kind, Effect(effect), wanted, expires)

        if self.attempt(action, expected):
            cube.grants = [g for g in cube.grants if g not in before] + [new]

    @precondition(lambda self: any(cube.grants for cube in self.model.cubes.values()))
    @rule(data=st.data(), actor=ACTORS)
    def remove(self, data: st.DataObject, actor: Principal) -> None:
        refs = sorted(ref for ref, cube in self.model.cubes.items() if cube.grants)
        ref = data.draw(st.sampled_from(refs))
        cube = self.model.cubes[ref]
        subject = data.draw(st.sampled_from(sorted({g.subject for g in cube.grants})))
        gone = [g for g in cube.grants if g.subject == subject]
        expected: type[MemosError] | None = None
        if not self.model.may(actor, cube, "read"):
            expected = NotFound
        elif actor.role == Role.READER:
            expected = Forbidden
        elif not self.model.may(actor, cube, "administer"):
            is_theirs = all(g.maker == actor.person for g in gone)
            if not (self.model.may(actor, cube, "share") and is_theirs):
                expected = Forbidden

        def action() -> None:
            self.grants.remove(actor, ref, Subject(SubjectKind(subject[0]), subject[1]))

        if self.attempt(action, expected):
            cube.grants = [g for g in cube.grants if g not in gone]

    @precondition(lambda self: self.model.cubes)
    @rule(data=st.data(), actor=ACTORS, readers=READERS, writers=st.booleans())
    def set_access(self, data, actor, readers, writers) -> None:
        ref = self.some_cube(data)
        cube = self.model.cubes[ref]
        expected = None
        changes = (readers, writers) != (cube.readers, cube.open_to_writers)
        if not self.model.may(actor, cube, "read"):
            expected = NotFound
        elif (
            actor.role == Role.READER
            or not self.model.may(actor, cube, "write")
            or (changes and not self.model.may(actor, cube, "administer"))
        ):
            expected = Forbidden
        access = Access(readers=readers, writers="tenant" if writers else "admin")
        patch = CubePatch(access=access)
        if self.attempt(lambda: self.vault.update(actor, ref, patch), expected):
            cube.readers, cube.open_to_writers = readers, writers

    @rule(name=st.sampled_from(GROUPS), person=st.sampled_from(PEOPLE))
    def join(self, name: str, person: str) -> None:
        if name not in self.model.groups:
            self.groups.create(ADMIN, name)
        self.groups.add(ADMIN, name, person)
        self.model.groups.setdefault(name, set()).add(person)

    @precondition(lambda self: any(self.model.groups.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        pairs = [(n, p) for n, people in self.model.groups.items() for p in people]
        name, person = data.draw(st.sampled_from(sorted(pairs)))
        self.groups.remove(ADMIN, name, person)
        self.model.groups[name].remove(person)

    @precondition(lambda self: self.model.groups)
    @rule(data=st.data())
    def delete_group(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.groups)))
        self.groups.delete(ADMIN, name)
        del self.model.groups[name]
        for cube in self.model.cubes.values():
            cube.grants = [g for g in cube.grants if g.subject != ("group", name)]

    @rule(person=st.sampled_from(PEOPLE[1:]))
    def forget(self, person: str) -> None:
        with self.database.write() as session:
            vault_grants.forget_person(session, "acme", person)
        for people in self.model.groups.values():
            people.discard(person)
        for cube in self.model.cubes.values():
            cube.grants = [
                g for g in cube.grants if g.subject != ("person", person) and g.maker != person
            ]

    @precondition(lambda self: self.model.cubes)
    @rule(data=st.data(), actor=ACTORS)
    def delete(self, data: st.DataObject, actor: Principal) -> None:
        ref = self.some_cube(data)
        cube = self.model.cubes[ref]
        expected: type[MemosError] | None = None
        if not self.model.may(actor, cube, "read"):
            expected = NotFound
        elif actor.role == Role.READER or not self.model.may_end(actor, cube):
            expected = Forbidden
        if self.attempt(lambda: self.vault.delete(actor, ref), expected):
            del self.model.cubes[ref]

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.model.clock += seconds

    @invariant()
    def every_way_to_every_cube_is_as_the_model_says(self) -> None:
        self.model.lapse()
        items = {cube.item: ref for ref, cube in self.model.cubes.items()}
        for who in CALLERS:
            rights = {
                ref: {str(p) for p in Permission if self.model.may(who, cube, p)}
                for ref, cube in self.model.cubes.items()
            }
            readable = {ref for ref, held in rights.items() if "read" in held}
            usable = {ref for ref, held in rights.items() if "use" in held}
            assert {h.id for h in self.views.page(who, CubeFilter())[0]} == readable
            assert {cube.cube_id for cube in self.views.stable(who, []).texts} == usable
            assert {items[i] for i in self.views.recall(who, list(items))} == usable
            searched = {
                part.key.cube_id
                for state in self.views.owners(who)
                for part in self.views.owner_cubes(state.owner, only=state.only)
            }
            assert searched == usable
            self.compare_rows(who, rights)

    def compare_rows(self, who: Principal, rights: dict[str, set[str]]) -> None:
        with self.database.read() as session:
            for ref, held in rights.items():
                row = session.get(CubeRow, ref)
                assert {str(p) for p in lookup.held(session, who, row)} == held
                assert self.views.may_use(who, [ref]) == ("use" in held)
            for pair in ((Permission.READ,), (Permission.USE,), (Permission.USE, Permission.READ)):
                by_row, by_scan = (
                    set(session.scalars(sa.select(CubeRow.id).where(condition(who, *pair))))
                    for condition in (records.visible_to, records.all_visible_to)
                )
                wanted = {ref for ref, held in rights.items() if held.issuperset(pair)}
                assert by_row == by_scan == wanted


TestAcl = pytest.mark.slow(AclMachine.TestCase)
TestAcl.settings = settings(
    max_examples=examples(3),
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
