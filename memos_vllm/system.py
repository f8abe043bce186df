"""MemorySystem: every part of memory, built from one configuration.

Server, command line and tests hold one of these. Nothing in it knows HTTP or vLLM; an engine in the
same process is attached with `attach_engine`. Methods block (database, Chroma) unless they are
`async`: servers call them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence

from memos_vllm import metrics
from memos_vllm.activation.store import SegmentStore
from memos_vllm.config.secrets import CACHE_SALT
from memos_vllm.config.tree import Config
from memos_vllm.cube.filters import ItemFilter
from memos_vllm.cube.ids import CubeId
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    Kind,
    MemCube,
    NewCube,
    ParametricPayload,
    Payload,
)
from memos_vllm.errors import SegmentsUnavailable, TooLarge, Unavailable
from memos_vllm.governance.audit_keys import audit_keys_of
from memos_vllm.governance.limits.policy import LimitsPolicy
from memos_vllm.governance.limits.pressure import Pressure
from memos_vllm.governance.permit import SEARCH
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.governance.redaction.redactor import Redactors
from memos_vllm.governance.scope import Scopes
from memos_vllm.parametric.adapter.packed import upload_of_file
from memos_vllm.parametric.adapter.pins import AdapterPins
from memos_vllm.parametric.adapter.uploads import AdapterUploads
from memos_vllm.parametric.attached import AttachedEngine, ServedModel
from memos_vllm.plaintext.documents.parsers import DocumentParsers
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.plaintext.reader.chunking import passages
from memos_vllm.plaintext.search.indexer import Indexer
from memos_vllm.plaintext.search.part_files import PartFiles
from memos_vllm.plaintext.search.repeats import repeats_last
from memos_vllm.plaintext.search.search import MemOperator, SearchResult
from memos_vllm.plaintext.search.vector_store import VectorIndex
from memos_vllm.vault import records
from memos_vllm.vault.ageing import Ageing
from memos_vllm.vault.audit_build import audit_log
from memos_vllm.vault.bundle_usage import BundleUsage
from memos_vllm.vault.bundles import Bundles
from memos_vllm.vault.database import Database
from memos_vllm.vault.derived import Deletion
from memos_vllm.vault.entities import Entities
from memos_vllm.vault.erasures import Erasures
from memos_vllm.vault.filters import ItemFilters
from memos_vllm.vault.forgotten import ForgottenStore
from memos_vllm.vault.grants import Grants
from memos_vllm.vault.groups import Groups
from memos_vllm.vault.idempotency import IdempotencyKey
from memos_vllm.vault.index_state import IndexState
from memos_vllm.vault.jobs import JobStore
from memos_vllm.vault.keys import KeyRing
from memos_vllm.vault.knowledge import Knowledge
from memos_vllm.vault.legacy_jobs import take_over
from memos_vllm.vault.outbox import Outbox, Work
from memos_vllm.vault.past import PastVault
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.plans import PlanStore
from memos_vllm.vault.policies import PolicyStore
from memos_vllm.vault.publishers import Publishers
from memos_vllm.vault.quotas import Quotas, admitted
from memos_vllm.vault.replicas import Replicas
from memos_vllm.vault.restores import RestoreStore
from memos_vllm.vault.secret_ring import SecretRing
from memos_vllm.vault.transform_records import Transforms
from memos_vllm.vault.turns import PendingTurns
from memos_vllm.vault.vault import InTransaction, MemVault
from memos_vllm.vault.views import OwnerState, VaultViews

log = logging.getLogger(__name__)


class MemorySystem:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.database = Database(config.database_url, config.database, audit_keys_of(config))
        policy = LimitsPolicy(config.governance.limits, config.limits.adapters_bytes_per_tenant)
        self.limits_of, self.pressure = policy.limits_of, Pressure()
        self.quotas = self.database.quotas = Quotas(policy.limits_of)
        self.payloads = PayloadStore(config.payload_url)
        self.policies = PolicyStore(self.database, config)
        noted = (metrics.count_redacted, self.policies.policy_of)
        self.redactors = Redactors(config.redaction, *noted)
        most, redactors = config.limits.items_per_cube, self.redactors
        self.vault = MemVault(self.database, self.payloads, max_items=most, redactors=redactors)
        self.bundles = Bundles(self.database, self.vault)
        self.publishers, self.bundle_usage = Publishers(self.database), BundleUsage(self.database)
        self.grants, self.groups = Grants(self.database), Groups(self.database)
        self.views = VaultViews(self.database)
        self.keys = KeyRing(self.database, SecretRing(self.database, config.governance.secrets))
        self.audit = audit_log(self.database, config)
        self.erasures = Erasures(self.database, self.policies.isolation_of)
        self.replicas = Replicas(self.database, lambda: self.erasures.learnt)
        self.plans = PlanStore(self.database, config.limits.plans_kept_per_tenant)
        self.jobs = JobStore(self.database)
        self.turns, self.outbox = PendingTurns(self.database), Outbox(self.database)
        self.transforms = Transforms(self.database)
        self.knowledge, self.entities = Knowledge(self.database), Entities(self.database)
        self.filters = ItemFilters(self.database)
        self.ageing = Ageing(self.database, self.payloads)
        self.forgotten = ForgottenStore(self.database, self.payloads)
        self.restores = RestoreStore(self.database)
        self.past = PastVault(self.database, self.payloads, self.redactors, config.lifecycle)
        self.embedder = Embedder(config.embedder)
        self.documents = DocumentParsers(config.reader.documents)
        self.uploads = AdapterUploads(config.adapters.checks)
        self.index = VectorIndex(config)
        self.segments = SegmentStore(config.kv, config.kv_path)
        self.adapter_pins = AdapterPins(config.adapter_pins_path, older=config.kv_path / "pins")
        self._engine: AttachedEngine | None = None
        self.index_state = IndexState(self.database)
        self.part_files = PartFiles(config.search_path, self.index_state.cube_versions)
        stores = (self.outbox, self.payloads, self.embedder, self.index, self.index_state)
        self.indexer = Indexer(*stores, forget_kv=self._forget_kv, files=self.part_files)
        sources = (self.views, self.index, self.outbox.waiting, self.part_files)
        self.operator = MemOperator(config.retrieval, *sources)

    def open(self) -> MemorySystem:
        """Migrate the database. Raises ConfigError, VaultUnavailable."""
        self.database.migrate()
        take_over(self.database, self.config.legacy_jobs_url)
        self.indexer.attach()
        self.audit.start()
        forgetting = (self.operator.forget, self.embedder.forget, self.audit.reads.forget)
        self.erasures.listen(*forgetting, records.forget_people)
        self.erasures.start()
        self.policies.start()
        return self

    def attach_engine(self, engine: AttachedEngine) -> None:
        """Attach the engine of this process, once it runs: the last step of wiring a server."""
        assert self._engine is None, "an engine is attached already"
        self._engine = engine

    @property
    def served(self) -> ServedModel | None:
        """The served model; None: no engine runs in this process."""
        return self._engine.served if self._engine is not None else None

    @property
    def reader_status(self) -> object | None:
        """`learning.examine.ReaderStatus`; None: no engine runs in this process."""
        reader = self._engine.reader if self._engine is not None else None
        return reader() if reader is not None else None

    def close(self) -> None:
        self.replicas.leave()
        self.erasures.close()
        self.documents.close()
        self.uploads.close()
        self.indexer.stop()
        self.part_files.close()
        self.embedder.close()
        self.index.close()
        self.audit.close()
        self.policies.close()
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
            in_transaction: called inside the transaction; an error that it raises undoes all of it.
        Raises:
            TooLarge, QuotaExceeded, Forbidden, Conflict, NotBuilt: nothing was stored.
        """
        # Before it is cut: a border may fall into a secret.
        whole = [self.redactors.of(principal.tenant).cube(new) for new in cubes]
        cut = [
            new.model_copy(update={"payload": self.cut(principal, new.payload)}) for new in whole
        ]
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
        patch = self.redactors.of(principal.tenant).patch(patch)
        if patch.payload is not None:
            patch = patch.model_copy(update={"payload": self.cut(principal, patch.payload)})
        if patch.append is not None:
            patch = patch.model_copy(update={"append": self.cut_items(patch.append)})
        adds = patch.payload is not None or patch.append is not None
        with contextlib.nullcontext() if adds else admitted():
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
        self, principal: Principal, ref: str, if_match: str | None = None, **how: bool
    ) -> tuple[Deletion, bool]:
        """Delete a cube everywhere; False when Chroma does not answer and vectors are deleted later.

        No search returns vectors that Chroma still holds: results are looked up in the vault.

        Args:
            how: `cascade` and `remake` of `MemVault.delete`.
        """
        deletion = self.vault.delete(principal, ref, if_match=if_match, **how)
        gone = [CubeId(orphan.cube) for orphan in deletion.gone]
        settled = self.settle([deletion.cube, *gone])
        self.adapters_changed()
        return deletion, settled

    def adapters_changed(self) -> bool:
        """Have the engine remove deleted adapters; False: none here attaches any."""
        changed = self._engine.adapters_changed if self._engine is not None else None
        if changed is not None:
            changed()
        return changed is not None

    def portable(self, principal: Principal, ref: str) -> MemCube:
        """A cube with its whole payload, for export. Raises NotFound, DamagedPayload."""
        cube = self.vault.get(principal, ref)
        if cube.meta.kind is Kind.PARAMETRIC:
            data = self.vault.file(principal, cube.meta.id, cube.meta.version)
            cube.payload = ParametricPayload(content=upload_of_file(data))
        return cube

    def cut_items(self, content: Sequence[Item]) -> list[Item]:
        """Cut items that are longer than a passage into several with the same source.

        Raises:
            TooLarge: more text than `limits.text_bytes`.
        """
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
            for passage in passages(item.text, limits.chunk_tokens, self.embedder.estimate_tokens):
                cut.append(item.model_copy(update={"text": passage, "id": None}))
        return cut

    def settle(self, cubes: Sequence[CubeId]) -> bool:
        """Index these cubes now, if this process owns the index; False: later, from the outbox."""
        if not self.index.claim():
            return False
        try:
            self.indexer.drain(cubes)
        except Unavailable as error:
            log.warning("indexing failed, retrying later: %s", error)
            return False
        return True

    # -- searching --------------------------------------------------------------------------------

    async def embed_question(
        self, principal: Principal, question: str, owners: Sequence[OwnerState] | None = None
    ) -> Vectors:
        """Embedding of a question, as the principal's memory is searched with it: (dim,).

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
        """Owners whose memory a principal searches, and the question without their names."""
        owners = self.views.owners(principal, SEARCH) if owners is None else owners
        return owners, self.operator.focus(owners, question)

    async def embed_focused(self, principal: Principal, focused: str) -> Vectors:
        """Embedding of a question that `focused` returned: (dim,). Raises EmbedderUnavailable."""
        return await self.embedder.embed_query(focused, f"{principal.tenant}\x00{principal.person}")

    def search(
        self,
        principal: Principal,
        question: str,
        vector: Vectors | None,
        top_k: int,
        owners: Sequence[OwnerState] | None = None,
        where: ItemFilter | None = None,
    ) -> SearchResult:
        """The best items that a filter admits (None: all that are evidence); as `MemOperator.search`.

        Repetitions come behind all that say something new.
        """
        keep, past = None, False
        if where is not None:
            keep, past = self.filters.matching(principal, where), where.is_about_time

        def best(count: int) -> SearchResult:
            search = self.operator.search
            return search(principal, question, vector, count, owners, past, keep=keep, among=SEARCH)

        return repeats_last(best, question, top_k)

    @functools.cached_property
    def scopes(self) -> Scopes:
        """Scopes that separate stored KV of people and tenants. Raises VaultUnavailable."""
        reader = self.keys.secrets.reader(CACHE_SALT)
        return Scopes(reader, self.policies.isolation_of, self.erasures.generation)

    # -- inside -----------------------------------------------------------------------------------

    def forget_conversations(self, owner: Principal) -> None:
        """Wipe the KV of a person's conversations, which holds the words of their cubes.

        Raises:
            SegmentsUnavailable: not everything could be wiped.
        """
        try:
            self.keys.secrets.read_now(CACHE_SALT)
            for scope in self.scopes.every_person(owner):
                self.segments.forget_scope(scope, compacts=False)
        except OSError as error:
            raise SegmentsUnavailable(f"stored KV cannot be wiped: {error}") from error

    def _forget_kv(self, work: Work) -> None:
        """Wipe the KV of a cube's older text; of a deleted person's cube, of their conversations, too."""
        try:
            if work.sequence is None:
                self.adapter_pins.remove(work.cube)
            wiped = self.segments.forget(work.cube, work.sequence)
        except OSError as error:
            raise SegmentsUnavailable(f"stored KV cannot be wiped: {error}") from error
        if work.sequence is None and work.owner.person:
            owner = Principal(work.owner.tenant, Role.READER, "", work.owner.person)
            self.forget_conversations(owner)
        changed = self._engine.text_changed if self._engine is not None else None
        if wiped and work.sequence is not None and changed is not None:
            changed(work.cube)

    def cut(self, principal: Principal, payload: Payload) -> Payload:
        if isinstance(payload, ParametricPayload):
            return self._checked(principal, payload)
        if not isinstance(payload, ExplicitPayload):
            return payload  # the vault answers with 501
        content = payload.content
        if isinstance(content, str):
            content = [Item(text=content)] if content.strip() else []
        return ExplicitPayload(content=self.cut_items(content))

    def _checked(self, principal: Principal, payload: ParametricPayload) -> ParametricPayload:
        """Check and pack an uploaded adapter. Raises TooLarge, Unprocessable, Unavailable."""
        most = self.config.limits.adapter_bytes
        adapter = self.uploads.read(payload.content, most, principal.tenant)
        checked = ParametricPayload()
        if self.served is not None:
            self.served.check(adapter)
            checked._model = self.served.fingerprint
        checked._file = adapter.file
        return checked
