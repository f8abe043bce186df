"""Functions of the Memory API as the console calls them: each behind the scopes of its route.

The console has no rule of its own: the functions check roles and permissions and write the audit records, and
`check_scopes` is what the middleware asks for the same route. What no route lists (people, keys) needs a key without
a list of scopes, as all that `api/access.py` does not name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import Request, Response

from memos_vllm.api import (
    claims,
    cubes,
    erasures,
    grants,
    insight,
    policies,
    restores,
    store,
    tokens,
    use,
)
from memos_vllm.api.access import check_scopes
from memos_vllm.api.claims import Changes, Claims, FeedbackRequest
from memos_vllm.api.erasures import ErasurePage, ErasureView
from memos_vllm.api.grants import GrantList, GroupDetail, GroupList, NewGrant
from memos_vllm.api.identity import LOCAL
from memos_vllm.api.models import (
    AuditPage,
    Deleted,
    Merge,
    Page,
    Rollback,
    SearchRequest,
    SearchResponse,
    Versions,
)
from memos_vllm.api.policies import PolicyVersions, PolicyView
from memos_vllm.api.restores import RestoreRequest, RestoreView
from memos_vllm.api.store_models import (
    Approval,
    BundleView,
    NewBundle,
    NewVersion,
    OutcomeView,
    PublishedView,
    Subscription,
)
from memos_vllm.api.tokens import NewView, Tokens, TokenView, ViewRequest
from memos_vllm.api.use import UseView
from memos_vllm.console.chat import ROUTE
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import CubePatch, MemCube, VersionDiff
from memos_vllm.errors import BadRequest, Forbidden
from memos_vllm.governance.permit import Effect
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.system import MemorySystem
from memos_vllm.vault.keys import KeyRecord
from memos_vllm.vault.people import People, PersonUse
from memos_vllm.vault.plans import StoredPlan

_MEMORY = "/v1/memory"


class Calls:
    def __init__(self, system: MemorySystem, caller: Principal) -> None:
        self._system, self._caller = system, caller

    # -- reading ----------------------------------------------------------------------------------

    def use(self) -> UseView:
        self._admit("GET", "/use")
        return use.use(self._system, self._caller)

    def claims(
        self,
        *,
        attribute: str | None,
        as_of: str | None,
        limit: int,
        offset: int = 0,
        at: datetime | None = None,
    ) -> Claims:
        self._admit("GET", "/claims")
        return claims.list_claims(
            self._system,
            self._caller,
            attribute=attribute,
            at=at,
            as_of=as_of,
            limit=limit,
            offset=offset,
        )

    def cubes(
        self,
        *,
        person: str | None,
        shared: bool | None,
        prefix: str | None,
        cursor: str | None,
        limit: int,
        as_of: str | None,
        tag: str | None = None,
    ) -> Page:
        self._admit("GET", "/cubes")
        return cubes.list_cubes(
            self._system,
            self._caller,
            person=person,
            shared=shared,
            tag=tag,
            name_prefix=prefix,
            cursor=cursor,
            limit=limit,
            as_of=as_of,
        )

    def cube(self, ref: str, version: str | None, as_of: str | None) -> MemCube:
        self._admit("GET", f"/cubes/{_ONE}")
        return cubes.get_cube(
            self._system, self._caller, Response(), ref, version=version, as_of=as_of
        )

    def versions(self, ref: str) -> Versions:
        self._admit("GET", f"/cubes/{_ONE}/versions")
        return cubes.list_versions(self._system, self._caller, ref)

    def diff(self, ref: str, older: str, newer: str | None) -> VersionDiff:
        self._admit("GET", f"/cubes/{_ONE}/diff")
        return cubes.diff_versions(self._system, self._caller, ref, older, newer)

    def grants(self, ref: str) -> GrantList:
        self._admit("GET", f"/cubes/{_ONE}/grants")
        return grants.list_grants(self._system, self._caller, ref)

    async def search(self, request: SearchRequest) -> SearchResponse:
        self._admit("POST", "/search")
        return await insight.search(self._system, self._caller, request)

    def explain(self, request_id: str) -> MemoryPlan:
        self._admit("GET", f"/explain/{_ONE}")
        return insight.explain(self._system, self._caller, request_id)

    def plans(self, cursor: str | None, limit: int) -> tuple[list[StoredPlan], str | None]:
        self._admit("GET", f"/explain/{_ONE}")
        return self._system.plans.page(self._caller, cursor, limit)

    def question(self, request_id: str) -> str | None:
        """What the person said in a request, where it is remembered."""
        self._admit("GET", f"/explain/{_ONE}")
        return self._system.plans.question(self._caller, request_id)

    def people(self, after: str, prefix: str, limit: int) -> tuple[list[PersonUse], str | None]:
        self._admit("GET", "/people")
        return People(self._system.database).page(self._caller, after, prefix, limit)

    def keys(self) -> list[KeyRecord]:
        """Keys of the tenant, the newest first. Needs the role `admin`."""
        self._admit("GET", "/keys")
        self._caller.require(Role.ADMIN)
        return self._system.keys.list(self._caller.tenant)[::-1]

    def audit(self, after: int, limit: int, verify: bool) -> AuditPage:
        self._admit("GET", "/audit")
        return insight.audit(self._system, self._caller, after, limit, verify)

    def groups(self) -> GroupList:
        self._admit("GET", "/groups")
        return grants.list_groups(self._system, self._caller)

    def group(self, ref: str) -> GroupDetail:
        self._admit("GET", f"/groups/{_ONE}")
        return grants.get_group(self._system, self._caller, ref)

    def policy(self) -> PolicyView:
        self._admit("GET", "/policy")
        return policies.get_policy(self._system, self._caller)

    def policy_versions(self, limit: int) -> PolicyVersions:
        self._admit("GET", "/policy/versions")
        return policies.list_policy_versions(self._system, self._caller, limit)

    def erasures(self, limit: int) -> ErasurePage:
        self._admit("GET", "/erasures")
        return erasures.list_erasures(self._system, self._caller, limit)

    def erasure(self, ref: str) -> ErasureView:
        self._admit("GET", f"/erasures/{_ONE}")
        return erasures.get_erasure(self._system, self._caller, ref)

    def tokens(self, person: str) -> Tokens:
        self._admit("GET", f"/people/{_ONE}/tokens")
        return tokens.list_tokens(self._system, self._caller, person)

    def bundles(self) -> list[BundleView]:
        self._admit("GET", "/store/bundles")
        return store.list_bundles(self._system, self._caller).bundles

    def bundle(self, name: str) -> BundleView:
        self._admit("GET", f"/store/bundles/{_ONE}")
        return store.get_bundle(self._system, self._caller, name)

    def published(self, words: str, registry: str | None) -> list[PublishedView]:
        self._admit("GET", "/store/search")
        return store.search_store(self._system, self._caller, words, registry).bundles

    # -- changing ---------------------------------------------------------------------------------

    def install(self, new: NewBundle) -> OutcomeView:
        self._admit("POST", "/store/bundles")
        return store.install_bundle(self._system, self._caller, new)

    def approve(self, name: str, approval: Approval) -> BundleView:
        self._admit("POST", f"/store/bundles/{_ONE}/approve")
        return store.approve_bundle(self._system, self._caller, name, approval)

    def look(self, name: str) -> OutcomeView:
        self._admit("POST", f"/store/bundles/{_ONE}/check")
        return store.check_bundle(self._system, self._caller, name)

    def update_bundle(self, name: str, version: str) -> OutcomeView:
        self._admit("POST", f"/store/bundles/{_ONE}/update")
        wanted = NewVersion(version=version)
        return store.update_bundle(self._system, self._caller, name, wanted)

    def roll_back_bundle(self, name: str) -> OutcomeView:
        self._admit("POST", f"/store/bundles/{_ONE}/rollback")
        return store.rollback_bundle(self._system, self._caller, name)

    def follow(self, name: str, wanted: Subscription) -> BundleView:
        self._admit("PATCH", f"/store/bundles/{_ONE}")
        return store.follow_bundle(self._system, self._caller, name, wanted)

    def uninstall(self, name: str) -> dict[str, Any]:
        self._admit("DELETE", f"/store/bundles/{_ONE}")
        return store.uninstall_bundle(self._system, self._caller, name)

    def feedback(self, request: FeedbackRequest) -> Changes:
        self._admit("POST", "/feedback")
        return claims.feedback(self._system, self._caller, request)

    def forget_session(self, session: str, *, dry_run: bool) -> Changes:
        self._admit("DELETE", f"/sessions/{_ONE}")
        return claims.delete_session(
            self._system, self._caller, session, undoable=True, dry_run=dry_run
        )

    def update(self, ref: str, patch: CubePatch, if_match: str) -> MemCube:
        self._admit("PATCH", f"/cubes/{_ONE}")
        return cubes.update_cube(self._system, self._caller, Response(), ref, patch, if_match)

    def rollback(self, ref: str, version: str, if_match: str) -> MemCube:
        self._admit("POST", f"/cubes/{_ONE}/rollback")
        return cubes.rollback_cube(
            self._system, self._caller, Response(), ref, Rollback(version=version), if_match
        )

    def merge(self, ref: str, request: Merge) -> MemCube:
        self._admit("POST", f"/cubes/{_ONE}/merge")
        return cubes.merge_cube(self._system, self._caller, ref, request)

    def delete(self, ref: str, if_match: str) -> Deleted:
        self._admit("DELETE", f"/cubes/{_ONE}")
        return cubes.delete_cube(self._system, self._caller, ref, if_match=if_match)

    def set_grant(self, ref: str, grant: NewGrant) -> GrantList:
        self._admit("PUT", f"/cubes/{_ONE}/grants")
        return grants.set_grant(self._system, self._caller, ref, grant)

    def remove_grants(self, ref: str, effect: Effect, subject: NewGrant) -> GrantList:
        """
        Args:
            subject: a grant of the one whose grants go.
        """
        self._admit("DELETE", f"/cubes/{_ONE}/grants")
        return grants.remove_grants(
            self._system,
            self._caller,
            ref,
            person=subject.person,
            group=subject.group,
            role=subject.role,
            tenant=subject.tenant,
            effect=effect,
        )

    def restore(self, person: str, request: RestoreRequest) -> RestoreView:
        self._admit("POST", f"/people/{_ONE}/restore")
        return restores.restore_person(self._system, self._caller, Response(), person, request)

    async def erase(self, person: str) -> ErasureView:
        self._admit("DELETE", f"/people/{_ONE}")
        return await erasures.erase_person(self._system, self._caller, Response(), person)

    def view(self, request: Request, person: str) -> NewView:
        self._admit("POST", f"/people/{_ONE}/view")
        return tokens.create_view(self._system, self._caller, request, person, ViewRequest())

    def revoke(self, person: str, token: str) -> TokenView:
        self._admit("DELETE", f"/people/{_ONE}/tokens/{_ONE}")
        return tokens.revoke_token(self._system, self._caller, person, token)

    def create_key(self, role: Role, label: str, ttl_seconds: int | None) -> tuple[KeyRecord, str]:
        """Create a key of the tenant; it ends with the key that makes it at the latest. Needs the role `admin`."""
        self._admit_keys("POST", "/keys")
        if self._caller.expires_us is not None:
            left = max((self._caller.expires_us - now_us()) // 1_000_000, 1)
            ttl_seconds = min(ttl_seconds or left, left)
        return self._system.keys.create(
            self._caller.tenant, role, label=label, ttl_seconds=ttl_seconds, by=self._caller
        )

    def revoke_key(self, key: str) -> KeyRecord:
        """Revoke a key of the tenant, but not the one that asks. Needs the role `admin`."""
        self._admit_keys("DELETE", f"/keys/{_ONE}")
        if key == self._caller.key_id:
            raise BadRequest("a key does not revoke itself: sign in with another one", param="key")
        return self._system.keys.revoke(key, by=self._caller)

    def set_policy(self, policy: dict[str, Any]) -> PolicyView:
        self._admit("PUT", "/policy")
        return policies.put_policy(self._system, self._caller, policy)

    def admit_chat(self) -> None:
        """Raise Forbidden where the session's key or token may not chat; the chat itself is a request of its own."""
        check_scopes(self._caller, "POST", ROUTE)

    # -- inside -----------------------------------------------------------------------------------

    def _admit(self, method: str, route: str) -> None:
        """Raise Forbidden where the session's key or token lacks a scope of the API's route."""
        check_scopes(self._caller, method, _MEMORY + route)

    def _admit_keys(self, method: str, route: str) -> None:
        """Raise Forbidden where the session may not change keys; the first one is made by the operator."""
        self._admit(method, route)
        self._caller.require(Role.ADMIN)
        if self._caller.key_id == LOCAL.key_id:
            raise Forbidden("this server has no keys: `memos keys create` makes the first one")


_ONE = "x"
"""Stands for an id in a route: scopes do not depend on it."""
