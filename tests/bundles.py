"""A publisher of bundles, and a tenant that installs them, in one memory system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from memos_vllm.config.tree import Config
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    ParametricPayload,
    Payload,
)
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.memstore.catalogue import Catalogue
from memos_vllm.memstore.publish import About, publish, sign_again
from memos_vllm.memstore.registry import FolderRegistry, Registry
from memos_vllm.memstore.signing import PublisherKey
from memos_vllm.memstore.store import MemStore, Outcome
from memos_vllm.parametric.training.order import Question
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

PUBLISHER = principal("", "publisher", Role.ADMIN)
ADMIN = principal("", "acme", Role.ADMIN)
HOURS = ["The shop opens at nine.", "It is closed on Sunday."]
NAME = "handbook"


def text(*texts: str) -> ExplicitPayload:
    return ExplicitPayload(content=[Item(text=each) for each in texts])


def config_of(folder: Path, database_url: str) -> Config:
    """A configuration whose registry `team` is the folder of a `Bundler`."""
    registries = {"team": str(folder / "registry")}
    return make_config(folder, database={"url": database_url}, store={"registries": registries})


class Bundler:
    """Publishes versions of a bundle from the tenant `publisher`, and installs them at `acme`."""

    def __init__(
        self, system: MemorySystem, folder: Path, registry: Registry | None = None
    ) -> None:
        self.system = system
        self.folder = folder / "registry"
        self.registry = registry or FolderRegistry(self.folder)
        folder.mkdir(exist_ok=True)
        self.key = PublisherKey.create(folder / "key")
        self.store = MemStore(system)

    def cubes(self, contents: Mapping[str, Sequence[str] | dict[str, Any]]) -> list[str]:
        """Shared cubes of the publisher with these contents: texts, or an adapter."""
        for name, content in contents.items():
            payload: Payload = (
                ParametricPayload(content=content) if isinstance(content, dict) else text(*content)
            )
            known = {each.name for each in self._headers(PUBLISHER)}
            if name in known and self.texts(PUBLISHER)[name] == content:
                continue  # a change of nothing would be a newer cube, and so another version
            if name in known:
                self.system.update(PUBLISHER, name, CubePatch(payload=payload))
            else:
                new = NewCube(meta=NewMeta(name=name, shared=True), payload=payload)
                self.system.create(PUBLISHER, [new])
        return list(contents)

    def publish(
        self,
        version: str = "1.0.0",
        contents: Mapping[str, Sequence[str] | dict[str, Any]] | None = None,
        *,
        key: PublisherKey | None = None,
        valid: timedelta = timedelta(days=1),
        name: str = NAME,
        exams: Mapping[str, Sequence[Question]] | None = None,
        **about: Any,
    ) -> str:
        refs = self.cubes(contents or {"hours": HOURS, "returns": ["Returns within 30 days."]})
        said = About(name, version, about.pop("licence", "CC-BY-4.0"), **about)
        signer = key or self.key
        return publish(self.system, PUBLISHER, self.registry, signer, said, refs, valid, exams)

    def withdraw(self, version: str, why: str = "wrong") -> None:
        sign_again(self.registry, self.key, NAME, withdraw=(version, why))

    def install(self, version: str | None = None, who: Principal = ADMIN, **how: Any) -> Outcome:
        how.setdefault("publisher", self.key.public.fingerprint)
        return self.store.install(who, "team", self.registry, NAME, version, **how)

    def approve(self, **how: Any) -> Any:
        return self.store.approve(ADMIN, NAME, **how)

    def update(self, version: str | None = None) -> Outcome:
        return self.store.update(ADMIN, self.registry, NAME, version)

    def check(self) -> Outcome | None:
        return self.store.check(ADMIN, self.registry, NAME)

    def catalogue(self) -> Catalogue:
        return Catalogue(self.system, ADMIN, self.registry)

    def texts(self, who: Principal = ADMIN) -> dict[str, list[str]]:
        """Name → texts of the tenant's cubes with a name."""
        return {
            header.name: [item.text for item in self.system.vault.get(who, header.id).items]
            for header in self._headers(who)
            if header.name
        }

    def _headers(self, who: Principal) -> list[Any]:
        from memos_vllm.vault.listing import every
        from memos_vllm.vault.views import CubeFilter

        return list(every(self.system.views, who, CubeFilter()))
