"""Grants: whom a cube is shared with, who is denied, and that the next request of every process sees it."""

from __future__ import annotations

import pytest

from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import Access, CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unprocessable
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault import grants
from memos_vllm.vault.grants import Subject
from tests.conftest import principal

ADMIN = principal("", role=Role.ADMIN)
BOB, CAROL, DAVE = (principal(name) for name in ("bob", "carol", "dave"))
OTHER = principal("carol", tenant="globex", role=Role.ADMIN)
READ, USE, WRITE = Permission.READ, Permission.USE, Permission.WRITE
SHARE, ADMINISTER = Permission.SHARE, Permission.ADMINISTER
QUESTION = "When does the boat leave the harbour?"


def person(name):
    return Subject(SubjectKind.PERSON, name)


def group(name):
    return Subject(SubjectKind.GROUP, name)


def made(system, owner, text="The boat leaves the harbour at seven.", **meta):
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=[Item(text=text)]))
    return system.create(owner, [new])[0]


def allow(system, by, cube, subject, *permissions, **more):
    return system.grants.put(by, cube.meta.id, subject, Effect.ALLOW, permissions, **more)


def deny(system, by, cube, subject, *permissions):
    return system.grants.put(by, cube.meta.id, subject, Effect.DENY, permissions)


def reads(system, caller, cube):
    """Every way to the text that needs `read`."""
    listed = cube.meta.id in {h.id for h in system.views.page(caller, _all())[0]}
    try:
        got = system.vault.get(caller, cube.meta.id).items == cube.items
    except NotFound:
        got = False
    assert listed == got
    return got


def uses(system, caller, cube):
    """Every way into a prompt."""
    item = cube.items[0].id
    recalled = list(system.views.recall(caller, [item])) == [item]
    found = [each.recalled.item.id for each in operator_search(system, caller)]
    assert recalled == (item in found) == system.views.may_use(caller, [cube.meta.id])
    try:
        named = system.views.stable(caller, [cube.meta.id]).named == 1
    except NotFound:
        named = False
    assert named == recalled
    return recalled


def operator_search(system, caller):
    return system.operator.search(caller, QUESTION, None, 5).found


def _all():
    from memos_vllm.vault.views import CubeFilter

    return CubeFilter()


def both(system, caller, cube):
    return reads(system, caller, cube), uses(system, caller, cube)


@pytest.fixture
def shared(system):
    return made(system, BOB, name="plans")


def test_a_cube_of_bob_is_carol_s_to_read_and_use_once_it_is_shared(system, shared):
    assert both(system, CAROL, shared) == (False, False)
    allow(system, BOB, shared, person("carol"), READ)
    assert both(system, CAROL, shared) == (True, False)
    allow(system, BOB, shared, person("carol"), READ, USE)
    assert both(system, CAROL, shared) == (True, True)
    allow(system, BOB, shared, person("carol"), USE)
    assert both(system, CAROL, shared) == (False, True)
    assert system.search(CAROL, QUESTION, None, 5).found == [], "a search shows what may be read"
    system.grants.remove(BOB, shared.meta.id, person("carol"))
    assert both(system, CAROL, shared) == (False, False)
    assert both(system, BOB, shared) == (True, True)


def test_a_group_role_or_the_tenant_is_a_subject(system, shared):
    system.groups.create(ADMIN, "crew")
    allow(system, BOB, shared, group("crew"), READ, USE)
    assert both(system, CAROL, shared) == (False, False)
    system.groups.add(ADMIN, "crew", "carol")
    assert both(system, CAROL, shared) == (True, True)
    system.groups.remove(ADMIN, "crew", "carol")
    assert both(system, CAROL, shared) == (False, False)
    system.groups.add(ADMIN, "crew", "carol")
    system.groups.delete(ADMIN, "crew")
    assert both(system, CAROL, shared) == (False, False)
    system.groups.create(ADMIN, "crew")
    system.groups.add(ADMIN, "crew", "carol")
    assert both(system, CAROL, shared) == (False, False), "another group of the same name"
    allow(system, BOB, shared, Subject(SubjectKind.ROLE, "writer"), READ)
    assert both(system, CAROL, shared) == (True, False)
    assert both(system, principal("carol", role=Role.READER), shared) == (False, False)
    allow(system, BOB, shared, Subject(SubjectKind.TENANT), READ, USE)
    assert both(system, principal("", role=Role.READER), shared) == (True, True)
    assert both(system, OTHER, shared) == (False, False)


def test_a_denial_wins_over_every_grant_and_over_open_memory(system, shared):
    system.groups.create(ADMIN, "crew")
    system.groups.add(ADMIN, "crew", "carol")
    allow(system, BOB, shared, person("carol"), READ, USE)
    deny(system, BOB, shared, group("crew"), USE)
    assert both(system, CAROL, shared) == (True, False)
    open_ = made(system, ADMIN, shared=True)
    assert both(system, CAROL, open_) == both(system, DAVE, open_) == (True, True)
    deny(system, ADMIN, open_, person("carol"), READ, USE)
    assert both(system, CAROL, open_) == (False, False)
    assert both(system, DAVE, open_) == (True, True)
    (cube,) = system.views.stable(DAVE, [open_.meta.id]).texts
    assert cube.is_listed, "its KV is not the whole tenant's any more"
    deny(system, BOB, shared, Subject(SubjectKind.TENANT), READ, USE)
    assert both(system, BOB, shared) == (True, True), "the owner has every permission"


def test_an_admin_administers_and_prompts_follow_the_person(system, shared):
    as_carol = principal("carol", role=Role.ADMIN)
    assert both(system, as_carol, shared) == (True, False)
    deny(system, as_carol, shared, Subject(SubjectKind.TENANT), READ, USE)
    assert both(system, as_carol, shared) == (True, False)
    system.grants.remove(as_carol, shared.meta.id, Subject(SubjectKind.TENANT))
    allow(system, as_carol, shared, person("carol"), USE)
    assert both(system, as_carol, shared) == (True, True)


def test_a_grant_ends_at_its_time(system, shared, monkeypatch):
    end = now_us() + 60_000_000
    allow(system, BOB, shared, person("carol"), READ, USE, expires_us=end)
    assert both(system, CAROL, shared) == (True, True)
    for module in ("records", "lookup"):
        monkeypatch.setattr(f"memos_vllm.vault.{module}.now_us", lambda: end)
    assert both(system, CAROL, shared) == (False, False)
    with pytest.raises(BadRequest, match="past"):
        allow(system, BOB, shared, person("dave"), READ, expires_us=now_us())


def test_write_changes_the_text_and_neither_the_owner_s_rights_nor_the_cube_s_life(system, shared):
    cube = shared.meta.id
    more = CubePatch(append=[Item(text="It is called Nora.")])
    with pytest.raises(NotFound):
        system.update(CAROL, cube, more)
    allow(system, BOB, shared, person("carol"), READ)
    with pytest.raises(Forbidden, match="grant of `write`"):
        system.update(CAROL, cube, more)
    allow(system, BOB, shared, person("carol"), WRITE)
    assert len(system.update(CAROL, cube, more).items) == 2
    for forbidden in (
        lambda: system.update(CAROL, cube, CubePatch(state="archived")),
        lambda: system.update(CAROL, cube, CubePatch(access=Access(readers=["carol"]))),
        lambda: system.delete(CAROL, cube),
        lambda: allow(system, CAROL, shared, person("dave"), READ),
        lambda: system.grants.on(CAROL, cube),
        lambda: system.vault.history(CAROL, cube),
        lambda: system.vault.get(CAROL, cube, shared.meta.version),
        lambda: system.update(principal("carol", role=Role.READER), cube, more),
    ):
        with pytest.raises(Forbidden):
            forbidden()
    allow(system, BOB, shared, person("carol"), ADMINISTER)
    assert system.update(CAROL, cube, CubePatch(state="archived")).meta.person == "bob"
    assert system.delete(CAROL, cube)


def test_who_shares_gives_no_more_than_it_has_and_loses_it_with_the_right(system, shared):
    cube = shared.meta.id
    end = now_us() + 60_000_000
    allow(system, BOB, shared, person("carol"), READ, SHARE, expires_us=end)
    for permissions, expires in (((USE,), end), ((SHARE,), end), ((READ,), None)):
        with pytest.raises(Forbidden):
            allow(system, CAROL, shared, person("dave"), *permissions, expires_us=expires)
    with pytest.raises(Forbidden):
        deny(system, CAROL, shared, person("dave"), READ)
    allow(system, CAROL, shared, person("dave"), READ, expires_us=end)
    assert reads(system, DAVE, shared)
    with pytest.raises(Forbidden, match="another's"):
        system.grants.remove(CAROL, cube, person("carol"))
    system.grants.remove(BOB, cube, person("carol"))
    assert not reads(system, CAROL, shared)
    assert not reads(system, DAVE, shared), "what Carol passed on ends with her own right"


def test_another_process_sees_a_revocation_at_its_next_request(system, shared, config):
    allow(system, BOB, shared, person("carol"), READ, USE)
    other = MemorySystem(config).open()
    try:
        assert both(other, CAROL, shared) == (True, True)
        system.grants.remove(BOB, shared.meta.id, person("carol"))
        assert both(other, CAROL, shared) == (False, False)
    finally:
        other.close()


def test_what_is_derived_from_restricted_memory_is_not_shared_on(system):
    source = made(system, ADMIN, shared=True, access=Access(readers=["bob"]))
    parents = {"origin": "test", "parents": [source.meta.id]}
    own = made(system, BOB, "Seven.", provenance=parents)
    with pytest.raises(Unprocessable, match="not all of its readers"):
        allow(system, BOB, own, person("carol"), READ)
    assert system.grants.on(BOB, own.meta.id)[1] == []
    open_ = made(system, ADMIN, shared=True)
    own = made(system, BOB, "Seven.", provenance={"origin": "t", "parents": [open_.meta.id]})
    allow(system, BOB, own, person("carol"), READ)
    deny(system, ADMIN, open_, person("carol"), READ)
    assert not reads(system, CAROL, own), "narrowed with its source"


def test_a_deleted_person_is_in_no_grant_and_no_group(system, shared):
    system.groups.create(ADMIN, "crew")
    system.groups.add(ADMIN, "crew", "carol")
    allow(system, BOB, shared, person("carol"), READ, SHARE)
    allow(system, CAROL, shared, person("dave"), READ)
    with system.database.write() as session:
        assert grants.forget_person(session, "acme", "carol") == 3
    assert system.grants.on(BOB, shared.meta.id)[1] == []
    assert system.groups.get(ADMIN, "crew")[1] == []
    assert not reads(system, DAVE, shared)
