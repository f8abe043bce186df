"""The configuration tree: sections, keys, defaults and limits. `config.load` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from memos_vllm.config.audit import AuditConfig
from memos_vllm.config.reader import LifecycleConfig, PipelineConfig, ReaderConfig
from memos_vllm.config.redaction import RedactionConfig
from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.config.section import Section

OPEN_ROUTES = ("/health", "/ping", "/version", "/docs", "/docs/oauth2-redirect", "/openapi.json")


class DatabaseConfig(Section):
    url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite under `home`")
    busy_timeout_seconds: float = Field(
        5.0, gt=0, description="how long a write waits for a database lock"
    )
    pool_size: int = Field(8, ge=1, description="database connections per process")


class PayloadConfig(Section):
    url: str | None = Field(None, description="fsspec URL for payload files; default: under `home`")


class ChromaConfig(Section):
    mode: Literal["embedded", "http"] = Field(
        "embedded", description="embedded: a store in this process; http: a Chroma server"
    )
    path: Path | None = Field(
        None, description="folder of the embedded store; default: under `home`"
    )
    host: str = Field("127.0.0.1", description="host of the Chroma server")
    port: int = Field(8001, ge=1, le=65535, description="port of the Chroma server")
    ssl: bool = Field(False, description="use TLS to the Chroma server")
    headers: dict[str, str] = Field(
        default_factory=dict, description="HTTP headers sent to the Chroma server"
    )


class EmbedderConfig(Section):
    model: str = Field(
        "ibm-granite/granite-embedding-30m-english",
        description="sentence-transformers name or folder, or a folder or hub name with `model.onnx` or "
        "`onnx/model.onnx` and `tokenizer.json`; a change rebuilds the index",
    )
    runtime: Literal["auto", "onnx", "torch"] = Field(
        "auto",
        description="auto: ONNX Runtime where the model has an ONNX graph, `device` is cpu and `dtype` "
        "float32, or it has no other weights",
    )
    onnx_file: str | None = Field(
        None, description="graph in the model's folder, such as `onnx/model_quantized.onnx`"
    )
    query_prefix: str | None = Field(
        None, description="text in front of a question; default: by the model"
    )
    passage_prefix: str | None = Field(
        None,
        description="text in front of a stored text; default: by the model; a change rebuilds the index",
    )
    device: str = Field("cpu", description="device of the embedder: cpu, cuda")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: faster on a GPU and on CPUs with AVX512_BF16 or AMX; a change rebuilds the "
        "index",
    )
    processes: int = Field(
        1,
        ge=0,
        le=64,
        description="embedder processes; 0: a thread of the server",
    )
    threads: int = Field(1, ge=1, description="CPU threads of each embedder")
    batch_size: int = Field(8, ge=1, description="texts embedded in one batch")
    batch_wait_ms: float = Field(1.0, ge=0, description="how long a text waits for a batch to fill")
    query_cache: int = Field(4096, ge=0, description="query embeddings cached in memory")


class PromptConfig(Section):
    budget_tokens: int = Field(
        1024, ge=0, description="memory in one prompt, tokens of the chat model"
    )
    context_share: float = Field(
        0.5, gt=0, le=1, description="largest share of the context that memory takes"
    )
    reply_reserve_tokens: int = Field(
        256, ge=1, description="tokens reserved for the reply without max_tokens"
    )
    deadline_seconds: float = Field(
        2.0,
        gt=0,
        description="time limit of memory per request; after it the chat proceeds with what was found",
    )


class RememberConfig(Section):
    enabled: bool = Field(True, description="store turns as memory")
    durable_wait_seconds: float = Field(
        0.25,
        ge=0,
        description="longest wait at the end of a reply until the turn is on disk",
    )
    items_per_cube: int = Field(
        64, ge=1, description="items of a conversation's cube before a new cube continues it"
    )
    claims: bool = Field(True, description="extract facts and preferences from turns as claims")
    undo_seconds: float = Field(
        86400.0,
        ge=0,
        le=30 * 86400,
        description="how long forgetting can be undone; then the older versions are deleted",
    )
    secrets: Literal["redact", "keep"] = Field(
        "redact",
        description="keep: as `governance.redaction.mode: off`, for all tenants without a policy of their own",
    )


NEAR_PROBES = (
    "What does the text above say?",
    "Which names, numbers and dates are mentioned?",
    "Say the most important point in one sentence.",
)


class KVConfig(Section):
    tier: Literal["fs", "lmcache", "none"] = Field(
        "fs",
        description="persistent KV. fs: files; lmcache: files, and LMCache's server for "
        "conversations; none: off",
    )
    lmcache_url: str = Field(
        "tcp://127.0.0.1:5555", description="URL of `lmcache server` for the engine"
    )
    lmcache_http_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8080",),
        description="HTTP frontends of the `lmcache server`s of all replicas; KV is deleted through each",
    )
    lmcache_hash: str = Field("blake3", description="`--hash-algorithm` of the `lmcache server`s")
    lmcache_timeout_seconds: float = Field(
        5.0, gt=0, description="timeout of an LMCache request; after it the KV is computed"
    )
    lmcache_heartbeat_seconds: float = Field(
        2.0, gt=0, le=10, description="heartbeat interval of LMCache's server"
    )
    path: Path | None = Field(None, description="folder of KV on disk; default: under `home`")
    max_bytes: int = Field(
        16 << 30, ge=0, description="KV on disk, bytes; evicted by last use and hits"
    )
    ram_path: Path = Field(Path("/dev/shm"), description="folder in shared memory for hot KV")
    ram_bytes: int = Field(2 << 30, ge=0, description="KV in shared memory, bytes; 0: none")
    prefetch: bool = Field(
        True,
        description="prefetch KV into shared memory: at the start the most recently used, in a session the "
        "person's",
    )
    history: bool = Field(True, description="store the KV of conversations, too, not only of cubes")
    segment_tokens: int = Field(128, ge=16, description="minimum segment of a conversation, tokens")
    promote_uses: float = Field(
        2.0,
        gt=0,
        description="decayed number of uses (half-life 1 h) from which a prompt head is rebuilt when one of "
        "its cubes changes",
    )
    near_heal: bool = Field(
        True, description="build exact KV in the background after approximate KV was served"
    )
    near_recompute_tokens: int = Field(
        0, ge=0, description="tokens at the end of approximate KV that are recomputed"
    )
    near_max_kl: float = Field(
        0.25,
        ge=0,
        description="largest measured KL of the first token at which approximate KV is used, nats",
    )
    near_probes: tuple[str, ...] = Field(
        NEAR_PROBES, description="questions that measure this KL, in the background"
    )
    shared_system_prompt_people: int = Field(
        0,
        ge=0,
        description="number of people who must send a system message before its KV is shared in the "
        "tenant, which the next ones can time; 0: only what an admin declares, 1: always",
    )


class AdaptersConfig(Section):
    merge: Literal["auto", "svd", "ties", "dare_ties", "none"] = Field(
        "none",
        description="how to merge several adapters of one request; auto: exact sum where the ranks fit "
        "`--max-lora-rank`, else its best low-rank approximation (svd); none: attach only the best. "
        "Adapters trained on text interfere: see the benchmark `recall`",
    )
    merged_at_most: int = Field(4, ge=2, description="most adapters merged into one")


class TrainingConfig(Section):
    in_server: bool = Field(
        True,
        description="run queued jobs in the server; false: only `memos train` and `memos jobs run` do",
    )
    model: str | None = Field(
        None, description="base model without a running server; default: `serve.model`"
    )
    max_seconds: float = Field(3600.0, gt=0, description="time limit of one job")
    jobs_per_tenant: int = Field(16, ge=1, description="queued and running jobs of a tenant")
    max_bytes: int = Field(16 << 30, ge=1, description="memory limit of the training process")
    promote: bool = Field(
        False,
        description="train adapters automatically on large, stable, often read cubes",
    )
    promote_after_days: float = Field(
        7.0, ge=0, description="days without a change before promotion"
    )
    promote_reads: int = Field(100, ge=1, description="reads of the cube before promotion")
    promote_characters: int = Field(
        4000, ge=1, description="characters of the cube before promotion"
    )
    device: str | None = Field(
        None, description="torch device of the training process; default: CUDA where available"
    )
    jobs_kept_days: float = Field(30.0, ge=0, description="retention of ended jobs")
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of the training process; default: half of the cores beside a server, "
        "else all",
    )


class GovernanceConfig(Section):
    isolation: Literal["person", "tenant"] = Field(
        "person", description="prefix cache shared per person, or by the whole tenant"
    )
    operator_tenant: str = Field(
        "operator", description="tenant whose admins may use operator routes"
    )
    open_routes: tuple[str, ...] = Field(OPEN_ROUTES, description="GET routes without a key")
    key_cache_seconds: float = Field(
        2.0, ge=0, description="cache time of a checked key; a revoked key works so long"
    )
    key_stale_seconds: float = Field(
        300.0, ge=0, description="cache time while the vault is unavailable"
    )
    redaction: RedactionConfig = RedactionConfig()
    trust_client_kv_transfer_params: bool = Field(
        False,
        description="pass clients' `kv_transfer_params` to the engine, for disaggregated serving behind a "
        "trusted router",
    )
    audit: AuditConfig = AuditConfig()


class JobsConfig(Section):
    url: str | None = Field(
        None, description="job database of version 0.1, whose waiting jobs are taken over once"
    )
    workers: int = Field(2, ge=1, description="jobs at a time in one process")
    poll_seconds: float = Field(
        1.0, gt=0, description="interval of looking for other processes' jobs and for retries"
    )


class LimitsConfig(Section):
    chunk_tokens: int = Field(512, ge=16, description="longest passage, tokens of the embedder")
    text_bytes: int = Field(8 << 20, ge=1, description="text of one request, bytes")
    document_bytes: int = Field(
        32 << 20, ge=1, description="one uploaded or imported document, bytes"
    )
    items_per_cube: int = Field(10_000, ge=1, description="items of one cube")
    batch_cubes: int = Field(256, ge=1, description="cubes of one batch request")
    adapter_bytes: int = Field(256 << 20, ge=1, description="weights of one adapter, bytes")
    adapters_bytes_per_tenant: int = Field(
        16 << 30, ge=1, description="all versions of a tenant's adapters, bytes"
    )
    plans_kept_per_tenant: int = Field(10_000, ge=1, description="stored plans for `explain`")


class ServeConfig(Section):
    model: str | None = Field(None, description="default model of `memos serve`")
    flags: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="vLLM flags, without dashes"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment variables of the server, unless already set"
    )


class Config(Section):
    home: Path = Field(
        Path("~/.memos"), description="folder of all data without a URL or path of its own"
    )
    database: DatabaseConfig = DatabaseConfig()
    payloads: PayloadConfig = PayloadConfig()
    chroma: ChromaConfig = ChromaConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    prompt: PromptConfig = PromptConfig()
    kv: KVConfig = KVConfig()
    adapters: AdaptersConfig = AdaptersConfig()
    training: TrainingConfig = TrainingConfig()
    remember: RememberConfig = RememberConfig()
    reader: ReaderConfig = ReaderConfig()
    pipeline: PipelineConfig = PipelineConfig()
    lifecycle: LifecycleConfig = LifecycleConfig()
    governance: GovernanceConfig = GovernanceConfig()
    jobs: JobsConfig = JobsConfig()
    limits: LimitsConfig = LimitsConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def redaction(self) -> RedactionConfig:
        """What is kept out of memory."""
        chosen = self.governance.redaction
        if self.remember.secrets == "keep":
            return chosen.model_copy(update={"mode": "off"})
        return chosen

    @property
    def root(self) -> Path:
        return self.home.expanduser().absolute()

    @property
    def database_url(self) -> str:
        return self.database.url or f"sqlite:///{self.root / 'vault.sqlite'}"

    @property
    def payload_url(self) -> str:
        return self.payloads.url or str(self.root / "payloads")

    @property
    def chroma_path(self) -> Path:
        return (self.chroma.path or self.root / "chroma").expanduser().absolute()

    @property
    def search_path(self) -> Path:
        """Folder of what search derives from items."""
        return self.root / "search"

    @property
    def kv_path(self) -> Path:
        return (self.kv.path or self.root / "kv").expanduser().absolute()

    @property
    def adapters_path(self) -> Path:
        return self.root / "adapters"

    @property
    def adapter_pins_path(self) -> Path:
        return self.root / "adapter_pins"

    @property
    def audit_key_path(self) -> Path:
        return (self.governance.audit.key_file or self.root / "audit.keys").expanduser()

    @property
    def checkpoints_path(self) -> Path:
        return (self.governance.audit.checkpoints or self.root / "audit").expanduser()

    @property
    def exams_path(self) -> Path:
        return self.root / "exams"

    @property
    def training_path(self) -> Path:
        return self.root / "training"

    @property
    def legacy_jobs_url(self) -> str:
        """Job database of version 0.1."""
        if self.jobs.url:
            return self.jobs.url
        if self.database.url and not self.database.url.startswith("sqlite"):
            return self.database.url
        return f"sqlite:///{self.root / 'jobs.sqlite'}"
