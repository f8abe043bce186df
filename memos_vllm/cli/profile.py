"""`memos doctor --profile SECONDS`: where a running server spends its processor time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from memos_vllm.cli.terminal import print_json, print_table, say
from memos_vllm.cli.vault import opened
from memos_vllm.errors import BadRequest, Unavailable
from memos_vllm.governance.principal import Role

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_SHOWN = 4
_KEY_SECONDS = 3600
_SLACK_SECONDS = 30.0


def profile(config: Path | None, url: str, key: str | None, seconds: float, as_json: bool) -> None:
    """Print the profile of the server at a URL.

    Args:
        key: of an admin of the operator's tenant; None: one that is made for it and revoked.

    Raises:
        BadRequest: the server refuses. Unavailable: it does not answer.
    """
    with opened(config) as system, _key(system, key) as given:
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        try:
            reply = httpx.get(
                f"{url.rstrip('/')}/v1/memory/profile",
                params={"seconds": seconds},
                headers=headers,
                timeout=seconds + _SLACK_SECONDS,
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"no server answers at {url}: {error}") from error
    if reply.status_code != httpx.codes.OK:
        raise BadRequest(f"the server refuses with {reply.status_code}: {reply.text[:300]}")
    found = reply.json()
    if as_json:
        print_json(found)
    else:
        _print(found)


@contextmanager
def _key(system: MemorySystem, given: str | None) -> Iterator[str | None]:
    if given is not None or not system.keys.any():
        yield given
        return
    tenant = system.config.governance.operator_tenant
    record, key = system.keys.create(
        tenant, Role.ADMIN, label="memos doctor", ttl_seconds=_KEY_SECONDS
    )
    try:
        yield key
    finally:
        system.keys.revoke(record.id)


def _print(found: dict[str, Any]) -> None:
    say(
        f"the server's process took {found['share']:.1%} of a core in {found['seconds']:.0f} s, without the engine"
    )
    rows = []
    for thread in found["threads"]:
        rows.append((thread["name"], f"{thread['share']:.2%}", "", ""))
        for each in thread["functions"][:_SHOWN]:
            share = each["cpu_seconds"] / found["seconds"]
            rows.append(("", f"{share:.2%}", each["function"], each["within"] or ""))
    print_table(("thread", "of a core", "in", "for"), rows, "no thread ran")
