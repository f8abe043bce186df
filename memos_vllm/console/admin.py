"""Who may, for an admin: keys, groups, the policy, the audit log with its verification, erasures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from memos_vllm.console.visit import At, ConsoleRoute, Offset

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
KEYS, GROUPS, VERSIONS, RECORDS, ERASURES = 50, 50, 50, 50, 200
_LAST = 2**62


@router.get("/keys")
def keys(visit: At, offset: Offset = 0) -> HTMLResponse:
    """Keys of the tenant, without their secrets."""
    found = visit.calls.keys()
    return visit.page(
        "keys.html",
        keys=found[offset : offset + KEYS],
        total=len(found),
        offset=offset,
        page=KEYS,
    )


@router.get("/groups")
def groups(visit: At, offset: Offset = 0) -> HTMLResponse:
    """Groups of people, for grants."""
    found = visit.calls.groups().groups
    return visit.page(
        "groups.html",
        groups=found[offset : offset + GROUPS],
        total=len(found),
        offset=offset,
        page=GROUPS,
    )


@router.get("/group")
def group(
    visit: At,
    group: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]+$")],
    offset: Offset = 0,
) -> HTMLResponse:
    """People of a group."""
    found = visit.calls.group(group)
    return visit.page(
        "group.html",
        group=found,
        people=found.people[offset : offset + GROUPS],
        total=len(found.people),
        offset=offset,
        page=GROUPS,
    )


@router.get("/policy")
def policy(visit: At) -> HTMLResponse:
    """The policy in force, the versions of the tenant's own, and its quotas."""
    calls = visit.calls
    return visit.page(
        "policy.html",
        policy=calls.policy(),
        versions=calls.policy_versions(VERSIONS).versions,
        use=calls.use(),
    )


@router.get("/audit")
def audit(
    visit: At,
    after: Annotated[int | None, Query(ge=0, le=_LAST)] = None,
    verify: bool = False,
) -> HTMLResponse:
    """Records of the audit log, the newest page first."""
    calls = visit.calls
    if after is None:
        calls.audit(0, 1, False)  # seals what has no place yet, and refuses other keys
        size = visit.system.audit.trees.size(visit.caller.tenant)
        after = max(size - RECORDS, 0)
    page = calls.audit(after, RECORDS, verify)
    return visit.page("audit.html", page=page, after=after, step=RECORDS, verified=verify)


@router.get("/erasures")
def erasures(visit: At) -> HTMLResponse:
    """Erasures of people, newest first, with their receipts."""
    return visit.page("erasures.html", erasures=visit.calls.erasures(ERASURES).erasures)


@router.get("/erasure")
def erasure(
    visit: At, erasure: Annotated[str, Query(max_length=64, pattern=r"^[^\x00/]+$")]
) -> HTMLResponse:
    """One erasure with its signed receipt."""
    return visit.page("erasure.html", erasure=visit.calls.erasure(erasure))
