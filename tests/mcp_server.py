"""A server with memory at `/mcp`, and the official client of it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from memos_vllm.cube.model import (
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
)
from memos_vllm.governance.principal import Role
from tests.conftest import principal

ALICE = principal("alice")
MODERN = "2026-07-28"


class Server:
    def __init__(self, system, url):
        self.system, self.url = system, url
        self._keys = {}

    def key(self, role=Role.WRITER, tenant="acme", scopes=None):
        kept = (role, tenant, scopes)
        if kept not in self._keys:
            self._keys[kept] = self.system.keys.create(tenant, role, scopes=scopes)[1]
        return self._keys[kept]

    @asynccontextmanager
    async def client(self, key=None, person="alice", mode="auto", **headers):
        sent = {"Authorization": f"Bearer {key or self.key()}", **headers}
        if person:
            sent["X-Memos-User"] = person
        async with (
            httpx2.AsyncClient(headers=sent, timeout=60) as http,
            Client(
                streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode
            ) as client,
        ):
            yield client

    def post(self, body, **headers):
        sent = {
            "Authorization": f"Bearer {self.key()}",
            "X-Memos-User": "alice",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx2.post(f"{self.url}/mcp", content=content, headers=sent | headers, timeout=60)


async def called(client, tool, **arguments):
    """The structured result of a tool call that succeeds."""
    made = await client.call_tool(tool, arguments)
    assert not made.is_error, made.content
    assert json.loads(made.content[0].text) == made.structured_content
    return made.structured_content


async def refused(client, tool, **arguments):
    """The text of a tool call that fails."""
    made = await client.call_tool(tool, arguments)
    assert made.is_error, made.structured_content
    return made.content[0].text


def keep(system, *texts, who=ALICE, **meta):
    items = [Item(type=ItemType.FACT, text=text) for text in texts]
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=items))
    return system.create(who, [new])[0]


def ping():
    return {"jsonrpc": "2.0", "id": 1, "method": "ping"}
