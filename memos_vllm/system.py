"""The memory system as one object: every part, built from one configuration.

The server, the command line and the tests all hold one of these; nothing in it knows HTTP or vLLM.
Methods block (database, Chroma) unless they are `async`: servers call them in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from memos_vllm.activation.quality import Quality
from memos_vllm.activation.store import SegmentStore
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    Kind,
    KVUsage,
    MemCube,
    NewCube,
    ParametricPayload,
    Payload,
)
from memos_vllm.errors import EmbedderUnavailable, SegmentsUnavailable, TooLarge, Unavailable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.scope import Scopes
from memos_vllm.parametric.adapter.packed import Adapter, read_upload, upload_of_file
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.reader.chunking import passages
from memos_vllm.plaintext.search.indexer import Indexer
from memos_vllm.plaintext.search.search import MemOperator, SearchResult
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.vault.ageing import Ageing
from memos_vllm.vault.audit import AuditLog
from memos_vllm.vault.database import Database
from memos_vllm.vault.derived import Deletion
from memos_vllm.vault.entities import Entities
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.jobs import Transforms
from memos_vllm.vault.keys import KeyRing
from memos_vllm.vault.knowledge import Knowledge
from memos_vllm.vault.outbox import Outbox, Work
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.plans import PlanStore
from memos_vllm.vault.turns import PendingTurns
from memos_vllm.vault.vault import InTransaction, MemVault
from memos_vllm.vault.views import OwnerState, VaultViews

log = logging.getLogger(__name__)


class ServedModel(Protocol):
    """What adapters have to fit."""

    @property
    def fingerprint(self) -> str:
        """Of the base model's weights."""
        ...

    @property
    def max_rank(self) -> int | None:
        """Of the adapters that it takes; None: it takes none."""
        ...

    def check(self, adapter: Adapter) -> None:
        """Raises Unprocessable."""
        ...


class MemorySystem:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(config.database_url, config.database)
        self.payloads = PayloadStore(config.payload_url)
        self.vault = MemVault(self.database, self.payloads, max_items=config.limits.items_per_cube)
        self.views = VaultViews(self.database)
        self.keys = KeyRing(self.database)
        self.audit = AuditLog(self.database)
        self.plans = PlanStore(self.database, config.limits.plans_kept_per_tenant)
        self.turns = PendingTurns(self.database)
        self.outbox = Outbox(self.database)
        self.transforms = Transforms(self.database)
        self.knowledge = Knowledge(self.database)
        self.entities = Entities(self.database)
        self.ageing = Ageing(self.database)
        self.embedder = Embedder(config.embedder)
        self.index = VectorIndex(config)
        self.segments = SegmentStore(config.kv, config.kv_path)
        self.text_changed: Callable[[str], None] | None = None
        """Told of a cube whose kept KV was wiped because its text changed."""
        self.served: ServedModel | None = None
        """What adapters are checked against; None: no engine runs in this process."""
        self.adapters_changed: Callable[[], None] = lambda: None
        """Told when an adapter was deleted."""
        self.indexer = Indexer(
            self.outbox, self.payloads, self.embedder, self.index, self._forget_kv
        )
        self.operator = MemOperator(config.retrieval, self.views, self.index)

    def open(self) -> MemorySystem:
        """Migrate the database. Raises ConfigError or VaultUnavailable."""
        self.database.migrate()
        return self

    def close(self) -> None:
        self.indexer.stop()
        self.embedder.close()
        self.index.close()
        self.database.dispose()

    # -- changing ---------------------------------------------------------------------------------

    def create(
        self,
        principal: Principal,
        cubes: Sequence[NewCube],
        idempotency_key: IdempotencyKey | None = None,
        in_transaction: InTransaction | None = None,
    ) -> list[MemCube]:
        """Store cubes (all or none), their text cut into passages, and index them.

        Args:
            in_transaction: what else belongs into the transaction; what it raises undoes all of it.
        Raises:
            TooLarge, Forbidden, Conflict, NotBuilt: nothing was stored.
        """
        cut = [new.model_copy(update={"payload": self._cut(new.payload)}) for new in cubes]
        self._check_quota(principal, [new.payload for new in cut])
        made = self.vault.create_many(principal, cut, idempotency_key, in_transaction)
        self.settle([CubeId(cube.meta.id) for cube in made])
        return made

    def update(
        self,
        principal: Principal,
        ref: str,
        patch: CubePatch,
        if_match: str | None = None,
        in_transaction: InTransaction | None = None,
    ) -> MemCube:
        if patch.payload is not None:
            payload = self._cut(patch.payload)
            self._check_quota(principal, [payload])
            patch = patch.model_copy(update={"payload": payload})
        if patch.append is not None:
            patch = patch.model_copy(update={"append": self.cut_items(patch.append)})
        cube = self.vault.update(
            principal, ref, patch, if_match=if_match, in_transaction=in_transaction
        )
        self.settle([CubeId(cube.meta.id)])
        return cube

    def rollback(
        self, principal: Principal, ref: str, version: str, if_match: str | None = None
    ) -> MemCube:
        cube = self.vault.rollback(principal, ref, version, if_match=if_match)
        self.settle([CubeId(cube.meta.id)])
        return cube

    def delete(
        self, principal: Principal, ref: str, if_match: str | None = None, cascade: bool = False
    ) -> tuple[Deletion, bool]:
        """Remove a cube everywhere; False when Chroma does not answer and vectors go later.

        Whatever Chroma still holds, no search returns it: results are looked up in the vault.

        Args:
            cascade: with all that was made from it.
        """
        deletion = self.vault.delete(principal, ref, if_match=if_match, cascade=cascade)
        gone = [CubeId(orphan.cube) for orphan in deletion.gone]
        settled = self.settle([deletion.cube, *gone])
        self.adapters_changed()
        return deletion, settled

    def portable(self, principal: Principal, ref: str) -> MemCube:
        """A cube with all that it takes to store it again. Raises NotFound, DamagedPayload."""
        cube = self.vault.get(principal, ref)
        if cube.meta.kind is Kind.PARAMETRIC:
            data = self.vault.file(principal, cube.meta.id, cube.meta.version)
            cube.payload = ParametricPayload(content=upload_of_file(data))
        return cube

    def cut_items(self, content: Sequence[Item]) -> list[Item]:
        """Items as they are; one longer than a passage becomes several with the same source."""
        limits = self.config.limits
        size = sum(len(item.text.encode("utf-8", "surrogatepass")) for item in content)
        if size > limits.text_bytes:
            raise TooLarge(
                f"{size} bytes of text in one request; at most {limits.text_bytes} (limits.text_bytes)",
                param="payload.content",
            )
        cut: list[Item] = []
        for item in content:
            if len(item.text) <= limits.chunk_tokens:  # a token is at least one character
                cut.append(item)
                continue
            for passage in passages(item.text, limits.chunk_tokens, self._count()):
                cut.append(item.model_copy(update={"text": passage, "id": None}))
        return cut

    def settle(self, cubes: Sequence[CubeId]) -> bool:
        """Index these cubes now, if this process owns the index; else the outbox keeps the work."""
        if not self.index.claim():
            return False
        try:
            self.indexer.drain(cubes)
        except Unavailable as error:
            log.warning("indexing is put off: %s", error)
            return False
        return True

    # -- searching --------------------------------------------------------------------------------

    async def embed_question(
        self, principal: Principal, question: str, owners: Sequence[OwnerState] | None = None
    ) -> Vectors:
        """(dim,) of the question as the principal's memories are searched with it.

        Args:
            owners: from `VaultViews.owners` of the same principal, when the caller has them already.
        Raises:
            EmbedderUnavailable
        """
        _, focused = await asyncio.to_thread(self.focused, principal, question, owners)
        return await self.embed_focused(principal, focused)

    def focused(
        self, principal: Principal, question: str, owners: Sequence[OwnerState] | None = None
    ) -> tuple[Sequence[OwnerState], str]:
        """Whose memory a principal searches, and the question as it is embedded for that."""
        owners = self.views.owners(principal) if owners is None else owners
        return owners, self.operator.focus(owners, question)

    async def embed_focused(self, principal: Principal, focused: str) -> Vectors:
        """(dim,) of what `focused` made of a question. Raises EmbedderUnavailable."""
        return await self.embedder.embed_query(focused, f"{principal.tenant}\x00{principal.person}")

    def search(
        self,
        principal: Principal,
        question: str,
        vector: Vectors | None,
        top_k: int,
        owners: Sequence[OwnerState] | None = None,
    ) -> SearchResult:
        return self.operator.search(principal, question, vector, top_k, owners)

    @functools.cached_property
    def scopes(self) -> Scopes:
        """Whose kept KV is whose. Raises VaultUnavailable."""
        return Scopes(self.database.secret("cache_salt"), self.config.governance.isolation)

    # -- inside -----------------------------------------------------------------------------------

    def kv_usage(self, caller: Principal, cube: str) -> tuple[KVUsage, list[Quality], list[str]]:
        """The KV that is kept of a cube, as far as it serves the caller; all of it for an admin.

        And what was measured of it in other places, the best first; and the keys of its segments.
        """
        everybody = caller.can(Role.ADMIN)
        scopes = None if everybody else [self.scopes.person(caller), self.scopes.tenant(caller)]
        sizes = self.segments.sizes(cube, scopes)
        qualities = self.segments.qualities(cube, sizes)
        usage = KVUsage(
            chains=len(sizes),
            bytes=sum(sizes.values()),
            pinned=self.segments.has_pin(cube),
            near_kl=round(qualities[0].kl, 4) if qualities else None,
            near_refused=sum(q.kl > self.config.kv.near_max_kl for q in qualities),
        )
        return usage, qualities, list(dict.fromkeys(name.key for name in sizes))

    def forget_conversations(self, owner: Principal) -> None:
        """Wipe all KV that is the person's own: it holds what they said, whichever cube that became.

        Raises SegmentsUnavailable: not everything could be wiped.
        """
        try:
            self.segments.forget_scope(self.scopes.person(owner))
        except OSError as error:
            raise SegmentsUnavailable(f"kept KV cannot be wiped: {error}") from error

    def _forget_kv(self, work: Work) -> None:
        """Wipe KV that holds what a cube said before; with a person's cube, their conversations'.

        A conversation's KV holds what was said in it, whichever cube that became.
        """
        try:
            wiped = self.segments.forget(work.cube, work.sequence)
        except OSError as error:
            raise SegmentsUnavailable(f"kept KV cannot be wiped: {error}") from error
        if work.sequence is None and work.owner.person:
            owner = Principal(work.owner.tenant, Role.READER, "", work.owner.person)
            self.forget_conversations(owner)
        if wiped and work.sequence is not None and self.text_changed is not None:
            self.text_changed(work.cube)

    def _cut(self, payload: Payload) -> Payload:
        if isinstance(payload, ParametricPayload):
            return self._checked(payload)
        if not isinstance(payload, ExplicitPayload):
            return payload  # the vault answers with 501
        content = payload.content
        if isinstance(content, str):
            content = [Item(text=content)] if content.strip() else []
        return ExplicitPayload(content=self.cut_items(content))

    def _checked(self, payload: ParametricPayload) -> ParametricPayload:
        """An adapter, checked and packed. Raises TooLarge, Unprocessable."""
        adapter = read_upload(payload.content, self.config.limits.adapter_bytes)
        checked = ParametricPayload()
        if self.served is not None:
            self.served.check(adapter)
            checked._model = self.served.fingerprint
        checked._file = adapter.pack()
        return checked

    def _check_quota(self, principal: Principal, payloads: Sequence[Payload]) -> None:
        """Raises TooLarge."""
        files = [p._file or b"" for p in payloads if isinstance(p, ParametricPayload)]
        limit = self.config.limits.adapters_bytes_per_tenant
        if files and self.views.adapter_bytes(principal) + sum(map(len, files)) > limit:
            raise TooLarge(
                f"the tenant's adapters would take more than {limit} bytes "
                "(limits.adapters_bytes_per_tenant): delete some, older versions count, too",
                param="payload",
            )

    def _count(self) -> Callable[[str], int]:
        """The embedder's own tokens; where it cannot be loaded, four characters a token."""

        def count(text: str) -> int:
            try:
                return self.embedder.count_tokens(text)
            except EmbedderUnavailable:
                return len(text) // 4 + 1

        return count
