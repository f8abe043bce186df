"""The MCP server inside vLLM's app: its lifespan runs, and chats find what a tool has stored."""

from __future__ import annotations

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.engine.harness import chat


async def test_a_chat_finds_what_an_mcp_client_has_stored(server, keys):
    headers = {"Authorization": f"Bearer {keys.acme}", "X-Memos-User": "mcp-person"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
        async with Client(transport) as client:
            made = await client.call_tool("remember", {"text": "The spare key is under the fern."})
            assert not made.is_error, made.content
            cube = made.structured_content["cube"]
            reply = chat(server, keys.acme, "mcp-person", "Where is the spare key?")
            assert cube in {each["id"] for each in reply.memory["cubes"]}
            plan = await client.call_tool("explain", {"request_id": reply.id})
            used = [
                entry
                for entry in plan.structured_content["plan"]["entries"]
                if entry["decision"] == "used"
            ]
            assert {entry["placement"] for entry in used if entry["cube"] == cube} == {"retrieved"}
    other = chat(server, keys.acme, "another-person", "Where is the spare key?")
    assert cube not in {each["id"] for each in other.memory["cubes"]}


def test_the_route_needs_a_key(server):
    for method in ("POST", "GET", "DELETE"):
        assert httpx2.request(method, f"{server.url}/mcp", timeout=60).status_code == 401
