"""Claims of a past moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import Claim, CubePatch, ExplicitPayload, Item, ItemType, NewCube
from memos_vllm.governance.principal import Role
from tests.unit.conftest import ALICE
from tests.unit.moments import BOB, now


@pytest.fixture
def http(system):
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    return TestClient(create_app(system), headers=headers, raise_server_exceptions=False)


def claim_of(value: str, attribute: str = "home", said: datetime | None = None) -> Item:
    claim = Claim(subject="alice", attribute=attribute, value=value)
    return Item(type=ItemType.FACT, text=f"{attribute} is {value}.", claim=claim, time=said)


def test_claims_of_a_past_moment(system, http):
    said = datetime(2026, 1, 5, tzinfo=UTC)
    content = [claim_of("Paris", said=said), claim_of("tea", "likes:tea")]
    new = NewCube(payload=ExplicitPayload(content=content))
    cube = system.create(ALICE, [new])[0].meta.id
    system.create(BOB, [NewCube(payload=ExplicitPayload(content=[claim_of("Rome")]))])
    then = now()
    newer = ExplicitPayload(content=[claim_of("Madrid", said=said + timedelta(days=9))])
    system.update(ALICE, cube, CubePatch(payload=newer))

    def values(query: str) -> list[str]:
        reply = http.get(f"/v1/memory/claims{query}")
        assert reply.status_code == 200, reply.text
        return [each["item"]["claim"]["value"] for each in reply.json()["claims"]]

    moment = quote(then.isoformat())
    assert values("") == ["Madrid"]
    assert values(f"?as_of={moment}") == ["Paris", "tea"], "the newest first"
    assert values(f"?as_of={moment}&attribute=likes") == ["tea"]
    assert values(f"?as_of={moment}&limit=1") == ["Paris"]
    assert values(f"?as_of={quote((said).isoformat())}") == [], "nothing was known then"
    assert http.get("/v1/memory/claims?as_of=tomorrow").status_code == 400
