"""What a person and a tenant store, as `GET /v1/memory/use` tells it."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, ParametricPayload
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.adapters import small
from tests.conftest import make_config, principal

ANN, BOB = principal("ann"), principal("bob")


@pytest.fixture
def system(tmp_path):
    limits = {"cubes": 10, "person_cubes": 5, "training_minutes_per_day": 2}
    opened = MemorySystem(make_config(tmp_path, governance={"limits": limits})).open()
    yield opened
    opened.close()


def use(system, role, person):
    _, key = system.keys.create("acme", role)
    headers = {"Authorization": f"Bearer {key}"} | ({"X-Memos-User": person} if person else {})
    with TestClient(create_app(system), headers=headers) as http:
        return http.get("/v1/memory/use").raise_for_status().json()


def test_a_person_sees_what_they_store_and_an_admin_the_tenant_too(system):
    items = [Item(text="The sea is red."), Item(text="The sky is green.")]
    (cube,) = system.create(ANN, [NewCube(payload=ExplicitPayload(content=items))])
    system.create(ANN, [NewCube(payload=ParametricPayload(content=small()))])
    system.create(BOB, [NewCube(payload=ExplicitPayload(content="The grass is blue."))])
    system.create(principal("ann", "globex"), [NewCube(payload=ExplicitPayload(content="x"))])
    mine = use(system, Role.READER, "ann")
    assert mine["tenant"] is None
    assert mine["person"]["cubes"] == {"used": 2, "limit": 5}
    assert mine["person"]["items"] == {"used": 2, "limit": None}
    assert mine["person"]["adapters"]["used"] == 1
    assert mine["person"]["text_bytes"]["used"] > len("The sea is red.The sky is green.")
    assert mine["training_seconds_left"] is None, "others of the tenant use it"
    all_of_it = use(system, Role.ADMIN, "")
    assert all_of_it["person"] is None
    assert all_of_it["training_seconds_left"] == 120
    assert all_of_it["tenant"]["cubes"] == {"used": 3, "limit": 10}
    system.delete(ANN, cube.meta.id)
    assert use(system, Role.READER, "ann")["person"]["items"]["used"] == 0


def test_who_stores_nothing_uses_nothing(system):
    assert use(system, Role.WRITER, "zed")["person"]["cubes"] == {"used": 0, "limit": 5}
