"""A link that opens the console signed in, for the demo's person: it holds a token that ends, never the key."""

from __future__ import annotations

import httpx

from memos_vllm.demo.snippets import PERSON
from memos_vllm.errors import ConfigError

SCOPES = ("chat", "memory.read", "memory.write", "memory.delete")
SECONDS = 3600


def console_link(server: str, key: str) -> str | None:
    """A new link to the person's own view; None: the server has no console.

    Args:
        server: address of the server.
        key: of the tenant, a writer's or an admin's.

    Raises:
        ConfigError: the server refuses to make one.
    """
    reply = httpx.post(
        f"{server}/v1/memory/people/{PERSON}/view",
        json={"scopes": SCOPES, "ttl_seconds": SECONDS},
        headers={"Authorization": f"Bearer {key}"},
        timeout=30.0,
        trust_env=False,
    )
    if reply.status_code == httpx.codes.NOT_IMPLEMENTED:
        return None
    if reply.status_code != httpx.codes.CREATED:
        raise ConfigError(f"the server makes no link to its console: {reply.text}")
    return str(reply.json()["url"])
