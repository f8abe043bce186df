"""Affinity: a value by which a router keeps a person's requests on the replica where their KV is warm.

Replies carry it as `X-Session-ID`, the header that vllm-router hashes; a client that sends it back stays.
It is the same on every replica and names no session.
"""

from __future__ import annotations

from collections.abc import Mapping

from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import composed

HEADER = "x-session-id"
_MARK = "memos-aff-"


def affinity_of(headers: Mapping[str, str], principal: Principal) -> str | None:
    """The request's own value, by which it came here, else the person's; None: it names no person.

    Args:
        headers: of the request, names in lower case.
    """
    if given := headers.get(HEADER):
        return given
    if not principal.person:
        return None
    return _MARK + composed("memos-affinity-1", principal.tenant, principal.person)[:16]


def session_of(value: str | None) -> str | None:
    """The session that a header names; an affinity value names none."""
    return None if value is None or value.startswith(_MARK) else value
