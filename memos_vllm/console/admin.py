"""Who may, for an admin: keys, groups, the policy, the audit log with its verification, erasures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.console.visit import At, ConsoleRoute, Offset, Visit
from memos_vllm.errors import BadRequest, Conflict
from memos_vllm.governance.principal import Role
from memos_vllm.strict_json import parse

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
KEYS, GROUPS, VERSIONS, RECORDS, ERASURES = 50, 50, 50, 50, 200
_LAST = 2**62
_DAY_SECONDS = 86_400
_NO_NUL = r"^[^\x00]*$"


@router.get("/keys")
def keys(visit: At, offset: Offset = 0) -> HTMLResponse:
    """Keys of the tenant, without their secrets."""
    return _keys(visit, offset)


@router.post("/keys/create")
def create_key(
    visit: At,
    role: Annotated[Role, Form()],
    label: Annotated[str, Form(max_length=200, pattern=_NO_NUL)] = "",
    days: Annotated[str, Form(max_length=5, pattern=r"^\d*$")] = "",
) -> HTMLResponse:
    """Make a key of the tenant; it is shown this once.

    Args:
        days: until it ends; empty: it does not.
    """
    if days and not int(days):
        raise BadRequest("a key counts for one day or more", param="days")
    ttl_seconds = int(days) * _DAY_SECONDS if days else None
    made, key = visit.whole_tenant.create_key(role, label.strip(), ttl_seconds)
    return _keys(visit, made=made.id, key=key)


@router.post("/keys/revoke")
def revoke_key(visit: At, key: Annotated[str, Form(max_length=64, pattern=_NO_NUL)]) -> Response:
    """Revoke a key of the tenant."""
    visit.whole_tenant.revoke_key(key)
    return visit.go("keys", done="key-revoked", person=None)


def _keys(visit: Visit, offset: int = 0, made: str = "", key: str = "") -> HTMLResponse:
    found = visit.calls.keys()
    return visit.page(
        "keys.html",
        keys=found[offset : offset + KEYS],
        total=len(found),
        offset=offset,
        page=KEYS,
        roles=list(Role),
        made=made,
        key=key,
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


@router.post("/policy")
def set_policy(
    visit: At,
    policy: Annotated[str, Form(max_length=100_000, pattern=_NO_NUL)],
    number: Annotated[int, Form(ge=0)],
) -> Response:
    """Set the tenant's own policy, as a new version.

    Args:
        policy: JSON.
        number: of the version that the form shows; 0: there is none.
    """
    calls = visit.whole_tenant
    own = calls.policy().own
    if number != (own.number if own is not None else 0):
        raise Conflict("the policy has a newer version: load its page again")
    tree = parse(policy, what="the policy")
    if not isinstance(tree, dict):
        raise BadRequest("the policy is an object", param="policy")
    calls.set_policy(tree)
    return visit.go("policy", done="policy", person=None)


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
