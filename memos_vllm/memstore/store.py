"""MemStore of a server: find, install, approve, update, roll back and uninstall bundles.

    install    read and check a version ─► one transaction: its cubes, quarantined ─► index
    approve    an admin lets the tenant, or some people, use it; a priced bundle needs an entitlement
    update     a newer version in place of the installed one, changed cubes as new versions of theirs
    uninstall  all of it is deleted; a signed receipt counts what was there before and after

What a bundle brings is shared memory of the tenant, named `<bundle>:<cube>`, which changes with the bundle alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import semver

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import SHARED, CubeId, TenantId, now_us, sha256, to_datetime, to_us
from memos_vllm.errors import BadRequest, Conflict, Forbidden, Unprocessable
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Principal, Role, check_person
from memos_vllm.memstore import entitlement as entitlements
from memos_vllm.memstore.catalogue import Catalogue
from memos_vllm.memstore.difference import CubeDifference
from memos_vllm.memstore.install import Installer
from memos_vllm.memstore.model import Index, check_name, check_version
from memos_vllm.memstore.package import Package
from memos_vllm.memstore.registry import Registry, opened
from memos_vllm.memstore.signing import PublicKey, read_public
from memos_vllm.vault.bundle_rows import Change, Installed
from memos_vllm.vault.items import Owner

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

RECEIPT = "memos-uninstall-receipt-1"
_TERMS = ("licence", "terms", "price")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What an installation or an update did."""

    bundle: Installed
    skipped: Mapping[str, str]
    """Cubes that were left out, with why."""
    differences: Sequence[CubeDifference] = ()
    is_indexed: bool = True


class MemStore:
    def __init__(self, system: MemorySystem) -> None:
        self._system = system

    # -- finding ----------------------------------------------------------------------------------

    def registry(self, source: str | None, *, any_location: bool = False) -> tuple[str, Registry]:
        """A registry by its name in `store.registries`.

        Args:
            source: None: the only one.
            any_location: a folder or URL, too: for those who can run commands on this machine.
        Raises:
            BadRequest: there is none of that name.
        """
        known = self._system.config.store.registries
        if source is None and len(known) == 1:
            source = next(iter(known))
        if source is not None and source in known:
            return source, opened(known[source], insecure=self._system.config.store.insecure)
        if source is not None and any_location:
            return source, opened(source, insecure=self._system.config.store.insecure)
        names = ", ".join(sorted(known)) or "none"
        raise BadRequest(
            f"no registry {source or ''} (`store.registries` has: {names})", param="registry"
        )

    def server_id(self) -> str:
        """Id of this installation, which a publisher may name in an entitlement; a copied database has the same."""
        return sha256(self._system.database.secret("store_server"))[:32]

    # -- changing ---------------------------------------------------------------------------------

    def install(
        self,
        principal: Principal,
        source: str,
        registry: Registry,
        name: str,
        version: str | None = None,
        *,
        follow: Follow = Follow.NEVER,
        readers: Sequence[str] | None = None,
        publisher: str | None = None,
    ) -> Outcome:
        """Install a version, quarantined.

        Args:
            version: None: the newest.
            readers: persons who may use it once it is approved; None: the whole tenant.
            publisher: fingerprint of a key to trust from now on.
        Raises:
            Conflict: it is installed already, or was by another publisher.
            Forbidden: no trusted publisher signed it.
            Unprocessable: it is damaged, withdrawn, stale or hostile; nothing was stored.
            NotFound, TooLarge, QuotaExceeded, RegistryUnavailable
        """
        principal.require(Role.ADMIN)
        before = self._system.bundles.known(principal.tenant, check_name(name))
        if before is not None and before.state is not BundleState.REMOVED:
            raise Conflict(
                f"{name} {before.version} is installed: update it, or uninstall it first",
                param="name",
            )
        index, key = Catalogue(self._system, principal, registry).signed(name, before, publisher)
        chosen = check_version(version) if version is not None else index.newest()
        if chosen is None:
            raise Unprocessable(f"every version of {name} was withdrawn by its publisher")
        package = Catalogue(self._system, principal, registry).package(index, chosen)
        change = Change(
            name=name,
            source=source,
            fingerprint=key.fingerprint,
            version=chosen,
            digest=package.digest,
            config=package.config.model_dump(mode="json"),
            serial=index.serial,
            highest=_higher(before.highest if before is not None else None, chosen),
            follow=follow,
            readers=_people(readers),
            over=None,
        )
        return self._applied(principal, registry, package, change, None)

    def approve(
        self,
        principal: Principal,
        name: str,
        *,
        digest: str | None = None,
        readers: Sequence[str] | None = None,
        entitlement: str | None = None,
        trust_adapters: bool = False,
    ) -> Installed:
        """Let the tenant use a bundle; also to renew an entitlement or change who may use it.

        Its adapters are used once they have passed the gate on this server; an exam that failed is sat again.

        Args:
            digest: of the version that was looked at; None: the one that is installed.
            readers: None: as before.
            trust_adapters: use them without a pass.
        Raises:
            Forbidden: a priced bundle without a valid entitlement, or more readers than its seats.
            NotFound, Conflict, Unprocessable
        """
        principal.require(Role.ADMIN)
        found = self._system.bundles.get(principal.tenant, name)
        if digest not in (None, found.digest):
            raise Conflict(f"{name} was changed meanwhile: {found.version} is installed")
        if not found.cubes:
            raise Conflict(
                f"no cube of {name} {found.version} is stored here any more: `memos store update {name} --version "
                f"{found.version}` fetches them"
            )
        people = _people(readers) if readers is not None else found.readers
        text = entitlement if entitlement is not None else found.entitlement
        ends_us = None
        if text is not None:
            key = _key(self._system, principal, found.fingerprint)
            granted = entitlements.read(text, key, name, principal.tenant, self.server_id())
            ends_us = to_us(granted.expires) if granted.expires is not None else None
            if granted.seats is not None and (people is None or len(people) > granted.seats):
                raise Forbidden(
                    f"the entitlement has {granted.seats} seats: name at most so many readers",
                    param="readers",
                )
        elif (price := found.config.get("price")) is not None:
            raise Forbidden(
                f"{name} has a price ({price}): its publisher gives an entitlement for it",
                param="entitlement",
            )
        done = self._system.bundles.approve(
            principal,
            name,
            digest=found.digest,
            readers=people,
            entitlement=text,
            ends_us=ends_us,
            trust_adapters=trust_adapters,
        )
        self._settle(done)
        return done

    def check(self, principal: Principal, registry: Registry, name: str) -> Outcome | None:
        """Look for a newer version, and follow it as the bundle says; None: there is none.

        A version with another licence, terms or price is never put in place by itself.
        """
        found = self._system.bundles.get(principal.tenant, name)
        index, _ = Catalogue(self._system, principal, registry).signed(name, found)
        newest = index.newest()
        if newest is None or _order(newest) <= _order(found.highest):
            self._system.bundles.note(principal, name, serial=index.serial)
            return None
        package = Catalogue(self._system, principal, registry).package(index, newest)
        is_same = all(getattr(package.config, each) == found.config.get(each) for each in _TERMS)
        if found.follow is Follow.AUTO and is_same:
            return self._update(principal, registry, found, index, package)
        shown = Installer(self._system, principal, registry, package).differences(found)
        noted = self._system.bundles.note(principal, name, serial=index.serial, offered=newest)
        return Outcome(noted, {}, shown)

    def update(
        self, principal: Principal, registry: Registry, name: str, version: str | None = None
    ) -> Outcome:
        """Put a version in place of the installed one, also an older one.

        Args:
            version: None: the newest. The installed one again fetches what is missing of it: cubes that were
                deleted after their end, adapters for a model that is served by now.
        Raises:
            Conflict: it is installed already, and whole.
            Forbidden: it has a price, and the bundle has no entitlement.
            as `install`
        """
        found = self._system.bundles.get(principal.tenant, name)
        index, _ = Catalogue(self._system, principal, registry).signed(name, found)
        chosen = check_version(version) if version is not None else index.newest()
        if chosen is None or (version is None and _order(chosen) <= _order(found.version)):
            raise Conflict(f"{name} {found.version} is the newest version", param="version")
        package = Catalogue(self._system, principal, registry).package(index, chosen)
        is_whole = not Installer(self._system, principal, registry, package).missing(found)
        if package.digest == found.digest and is_whole:
            raise Conflict(f"{name} {chosen} is installed", param="version")
        return self._update(principal, registry, found, index, package)

    def rollback(self, principal: Principal, registry: Registry, name: str) -> Outcome:
        """Back to the version before. Raises Conflict: there is none; as `update`."""
        found = self._system.bundles.get(principal.tenant, name)
        if not found.history:
            raise Conflict(f"{name} {found.version} is the first version here", param="version")
        return self.update(principal, registry, name, found.history[-1])

    def uninstall(self, principal: Principal, name: str) -> dict[str, Any]:
        """Delete a bundle everywhere; returns a signed receipt. Raises NotFound; Conflict: a cube is frozen."""
        principal.require(Role.ADMIN)
        found = self._system.bundles.get(principal.tenant, name)
        cubes = [cube for cube, _ in found.cubes.values()]
        before = self._counts(principal, cubes)
        removed, deletions = self._system.bundles.remove(principal, name)
        gone = [CubeId(each.cube) for deletion in deletions for each in deletion.gone]
        self._system.settle([*cubes, *gone])
        self._system.adapters_changed()
        after = self._counts(principal, cubes)
        content = {
            "tenant": principal.tenant,
            "bundle": name,
            "version": removed.version,
            "digest": removed.digest,
            "finished": to_datetime(now_us()).isoformat(),
            "complete": not any(after.values()),
            "stores": [
                {"store": each, "before": before[each], "after": after[each]} for each in before
            ],
        }
        return receipts.signed(self._system.database.audit_keys.current, content, RECEIPT)

    # -- inside -----------------------------------------------------------------------------------

    def _update(
        self,
        principal: Principal,
        registry: Registry,
        found: Installed,
        index: Index,
        package: Package,
    ) -> Outcome:
        change = Change(
            name=found.name,
            source=found.source,
            fingerprint=found.fingerprint,
            version=package.config.version,
            digest=package.digest,
            config=package.config.model_dump(mode="json"),
            serial=index.serial,
            highest=_higher(found.highest, package.config.version),
            follow=found.follow,
            readers=found.readers,
            over=found.version,
        )
        return self._applied(principal, registry, package, change, found)

    def _applied(
        self,
        principal: Principal,
        registry: Registry,
        package: Package,
        change: Change,
        found: Installed | None,
    ) -> Outcome:
        installer = Installer(self._system, principal, registry, package)
        whole, differences = installer.change(change, found)
        done, deletions = self._system.bundles.apply(principal, whole)
        is_indexed = self._settle(done, [deletion.cube for deletion in deletions])
        return Outcome(done, installer.skipped, differences, is_indexed)

    def _settle(self, bundle: Installed, gone: Sequence[CubeId] = ()) -> bool:
        done = self._system.settle([*(cube for cube, _ in bundle.cubes.values()), *gone])
        self._system.adapters_changed()
        return done

    def _counts(self, principal: Principal, cubes: Sequence[CubeId]) -> dict[str, int]:
        """What is stored of cubes."""
        system, tenant = self._system, TenantId(principal.tenant)
        stored = system.index.count_by_cube(Owner(tenant, SHARED))
        return {
            "cubes": system.bundles.count(cubes),
            "vectors": sum(stored.get(cube, 0) for cube in cubes),
            "payload_files": sum(system.payloads.count(tenant, cube) for cube in cubes),
            "kv": sum(len(system.segments.sizes(cube)) for cube in cubes),
            "search_files": system.part_files.count(Owner(tenant, SHARED), list(cubes)),
        }


def trust(system: MemorySystem, principal: Principal, text: str, label: str) -> PublicKey:
    """Trust a publisher by its public key. Raises BadRequest, Forbidden."""
    key = read_public(text)
    system.publishers.trust(principal, key.fingerprint, key.hex, label)
    return key


def _key(system: MemorySystem, principal: Principal, fingerprint: str) -> PublicKey:
    for each in system.publishers.all(principal.tenant):
        if each.fingerprint == fingerprint:
            return PublicKey(each.public)
    raise Forbidden(f"the publisher {fingerprint} is not trusted any more", param="publisher")


def _people(readers: Sequence[str] | None) -> list[str] | None:
    return None if readers is None else list(dict.fromkeys(map(check_person, readers)))


def _order(version: str) -> semver.Version:
    return semver.Version.parse(version)


def _higher(one: str | None, other: str) -> str:
    return other if one is None or _order(other) > _order(one) else one
