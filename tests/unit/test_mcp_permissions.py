"""Who may do what at `/mcp`: other people and tenants, roles, scopes, person tokens."""

from __future__ import annotations

import pytest
from mcp import MCPError

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import (
    Access,
)
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.learning.feedback import Feedback
from tests.conftest import principal
from tests.http_server import served
from tests.mcp_server import ALICE, Server, called, keep, ping, refused


@pytest.fixture
def server(system):
    with served(create_app(system)) as url:
        yield Server(system, url)


async def test_other_people_and_tenants_see_nothing(server):
    system = server.system
    Feedback(system).say(ALICE, "I live in Paris.")
    (claim,) = system.knowledge.claims(ALICE)
    async with server.client() as client:
        note = await called(client, "remember", text="Alice's safe word is avocado.")
    item = system.vault.get(ALICE, note["cube"]).items[0].id
    others = [
        {"person": "bob"},
        {"person": "alice", "key": server.key(tenant="globex")},
        {"person": "bob", "key": server.key(Role.ADMIN)},
        {"person": None, "key": server.key(Role.ADMIN)},
        {"person": "ALICE"},
    ]
    for who in others:
        async with server.client(**who) as client:
            found = await called(client, "search", query="avocado, Paris")
            assert found["memories"] == [], who
            listed = await called(client, "list")
            assert (listed["cubes"], listed["facts"]) == ([], []), who
            assert (await called(client, "list", what="facts", ended=True))["facts"] == []
            assert (await client.list_resources()).resources == []
            absent = await refused(client, "open_cube", cube="cube_0123456789abcdef")
            hidden = await refused(client, "open_cube", cube=note["cube"])
            assert hidden == absent.replace("cube_0123456789abcdef", note["cube"]), who
            with pytest.raises(MCPError, match="there is no cube"):
                await client.read_resource(f"memos://cubes/{note['cube']}")
            for ref in (item, claim.item.id):
                assert await client_fails(client, "correct", item=ref, text="Bob was here.")
                assert await client_fails(client, "forget", items=[ref])
    assert [each.text for each in system.vault.get(ALICE, note["cube"]).items] == [
        "Alice's safe word is avocado."
    ]


async def client_fails(client, tool, **arguments):
    return (await client.call_tool(tool, arguments)).is_error


async def test_shared_memory_is_read_by_its_readers_and_written_by_no_tool(server):
    admin = principal("", role=Role.ADMIN)
    keep(server.system, "The office closes at six.", who=admin, shared=True, name="house")
    keep(
        server.system,
        "The merger is secret.",
        who=admin,
        shared=True,
        access=Access(readers=["alice"]),
        name="merger",
    )
    async with server.client(person="bob") as client:
        names = [cube["name"] for cube in (await called(client, "list"))["cubes"]]
        assert names == ["house"]
        assert (await called(client, "search", query="merger"))["memories"] == []
    async with server.client(key=server.key(Role.ADMIN), person=None) as client:
        said = await refused(client, "remember", text="The office closes at five.")
        assert "X-Memos-User" in said
        assert "operator" in said
    async with server.client() as client:
        opened = await called(client, "open_cube", cube="house")
        said = await refused(client, "forget", items=[opened["items"][0]["id"]])
        assert "no item" in said


async def test_a_reader_cannot_write_and_scopes_hold_for_each_tool(server):
    note = keep(server.system, "Alice has a bike.")
    item = note.items[0].id
    writing = {
        "remember": {"text": "Alice has a car."},
        "forget": {"items": [item]},
        "correct": {"item": item, "text": "Alice has a car."},
    }
    reading = {
        "search": {"query": "bike"},
        "list": {},
        "open_cube": {"cube": note.meta.id},
    }
    async with server.client(key=server.key(Role.READER)) as client:
        for tool, arguments in writing.items():
            assert "role `writer`" in await refused(client, tool, **arguments)
        for tool, arguments in reading.items():
            await called(client, tool, **arguments)
    tokens = server.system.keys.tokens
    owner = server.system.keys.authenticate(server.key())
    for scopes, works in (
        ([Scope.CHAT], set()),
        ([Scope.READ], set(reading)),
        ([Scope.WRITE], {"remember"}),
        ([Scope.WRITE, Scope.DELETE], {"remember", "forget"}),
    ):
        _, token = tokens.create(owner, "alice", scopes, 900)
        async with server.client(key=token, person=None) as client:
            for tool, arguments in (reading | writing).items():
                if tool == "correct" and Scope.DELETE in scopes:
                    continue  # a quotation
                made = await client.call_tool(tool, arguments)
                assert made.is_error is (tool not in works), (scopes, tool, made.content)
                if made.is_error:
                    assert "needs the scope" in made.content[0].text
            if Scope.READ not in scopes:
                with pytest.raises(MCPError, match="scope"):
                    await client.list_resources()


async def test_a_person_token_names_its_person_and_no_other(server):
    owner = server.system.keys.authenticate(server.key())
    _, token = server.system.keys.tokens.create(owner, "alice", [Scope.READ, Scope.WRITE], 900)
    async with server.client(key=token, person=None) as client:
        await called(client, "remember", text="Alice has a boat.")
    assert (
        server.post(ping(), Authorization=f"Bearer {token}", **{"X-Memos-User": "bob"}).status_code
        == 403
    )
    async with server.client() as client:
        assert (await called(client, "search", query="boat"))["memories"]
