"""Bundles of a registry, as a tenant sees them: whose signature is trusted, and what is newest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos_vllm.errors import Conflict, Forbidden, NotFound, Unprocessable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.memstore.model import BundleConfig, Index, check_name
from memos_vllm.memstore.package import (
    Package,
    check_fresh,
    digest_in,
    read_index,
    read_package,
)
from memos_vllm.memstore.registry import Registry, RegistryUnavailable
from memos_vllm.memstore.signing import PublicKey
from memos_vllm.vault.bundle_rows import Installed

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


_SEARCH_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A bundle as a registry shows it."""

    index: Index
    config: BundleConfig | None
    """Of its newest version; None: all are withdrawn."""
    digest: str | None
    publisher: PublicKey
    is_trusted: bool


class Catalogue:
    def __init__(self, system: MemorySystem, principal: Principal, registry: Registry) -> None:
        self._system, self._principal, self.registry = system, principal, registry

    def search(self, words: str = "") -> list[Published]:
        """Bundles whose name, description, authors or languages have all the words.

        One that cannot be read is left out.

        Raises:
            RegistryUnavailable: it does not answer, or has too many to look at.
        """
        self._principal.require(Role.READER)
        wanted = words.casefold().split()
        found = []
        end = time.monotonic() + _SEARCH_SECONDS
        for name in self.registry.names():
            if time.monotonic() > end:
                raise RegistryUnavailable(
                    f"a search of the registry takes longer than {_SEARCH_SECONDS:.0f} s: name a bundle to show"
                )
            try:
                shown = self.show(name)
            except (Unprocessable, NotFound, Forbidden):
                continue
            config = shown.config
            about = " ".join(
                [name]
                + ([config.description, *config.authors, *config.languages] if config else [])
            )
            if all(word in about.casefold() for word in wanted):
                found.append(shown)
        return found

    def show(self, name: str) -> Published:
        """A bundle in a registry, also of a publisher that the tenant does not trust.

        Raises:
            NotFound, Unprocessable, RegistryUnavailable
        """
        trusted = self.trusted()
        index, key, is_trusted = self._index(check_name(name), trusted)
        newest = index.newest()
        if newest is None:
            return Published(index, None, None, key, is_trusted)
        package = self.package(index, newest)
        return Published(index, package.config, package.digest, key, is_trusted)

    def trusted(self) -> list[PublicKey]:
        return [
            PublicKey(each.public) for each in self._system.publishers.all(self._principal.tenant)
        ]

    def _index(self, name: str, trusted: Sequence[PublicKey]) -> tuple[Index, PublicKey, bool]:
        """The index with the key that signed it, trusted or not; for showing alone."""
        try:
            index, key = read_index(self.registry, name, trusted)
            return index, key, True
        except Forbidden:
            index, key = read_index(self.registry, name, None)
            return index, key, False

    def signed(
        self,
        name: str,
        before: Installed | None,
        publisher: str | None = None,
    ) -> tuple[Index, PublicKey]:
        """The fresh index of a bundle, signed by a publisher that may provide it."""
        trusted = self.trusted()
        if publisher is not None:
            shown, key = read_index(self.registry, name, None)
            if key.fingerprint != publisher.lower():
                raise Forbidden(
                    f"{name} is signed by {key.fingerprint}, not by {publisher}", param="publisher"
                )
            if key not in trusted:
                self._system.publishers.trust(self._principal, key.fingerprint, key.hex, shown.name)
                trusted = [*trusted, key]
        index, key = read_index(self.registry, name, trusted)
        if before is not None and before.fingerprint != key.fingerprint:
            raise Conflict(
                f"{name} was of another publisher here ({before.fingerprint}): a bundle does not change hands",
                param="publisher",
            )
        check_fresh(index, before.serial if before is not None else 0)
        return index, key

    def package(self, index: Index, version: str) -> Package:
        digest = digest_in(index, version)
        most = self._system.config.store.bundle_bytes
        return read_package(self.registry, index.name, version, digest, most)
