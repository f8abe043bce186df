"""The configuration tree: sections, keys, defaults and limits. `config.load` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from memos_vllm.config.adapters import AdaptersConfig
from memos_vllm.config.audit import AuditConfig
from memos_vllm.config.console import ConsoleConfig
from memos_vllm.config.imports import ImportsConfig
from memos_vllm.config.kv import KVConfig
from memos_vllm.config.limits import FairnessConfig, HttpConfig, LimitsPolicyConfig
from memos_vllm.config.mcp import MCPConfig
from memos_vllm.config.oidc import OidcIssuer, check_issuers
from memos_vllm.config.reader import LifecycleConfig, PipelineConfig, ReaderConfig
from memos_vllm.config.redaction import RedactionConfig
from memos_vllm.config.responses import ResponsesConfig
from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.config.secrets import SecretsConfig
from memos_vllm.config.section import Section
from memos_vllm.config.serve import ServeConfig
from memos_vllm.config.store import StoreConfig

OPEN_ROUTES = (
    "/health",
    "/ready",
    "/ping",
    "/version",
    "/docs",
    "/docs/oauth2-redirect",
    "/openapi.json",
)

PERSON_HEADERS = ("X-Memos-User",)
SESSION_HEADERS = ("X-Session-ID",)
KEY_HEADERS = ("Authorization", "X-Api-Key")


class DatabaseConfig(Section):
    url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite under `home`")
    busy_timeout_seconds: float = Field(
        5.0, gt=0, description="how long a write waits for a database lock"
    )
    pool_size: int = Field(8, ge=1, description="database connections per process")
    models: Literal["one", "several"] = Field(
        "one",
        description="one: all servers of the database serve the same model, and another one does not start; "
        "several: they share text, while KV and adapters are each model's own",
    )


class PayloadConfig(Section):
    url: str | None = Field(None, description="fsspec URL for payload files; default: under `home`")


class ChromaConfig(Section):
    process: bool = Field(
        True,
        description="run the embedded store in a process of its own, which sees no text: its files hold "
        "bytes of its process",
    )
    mode: Literal["embedded", "http"] = Field(
        "embedded", description="embedded: a store of this server; http: a Chroma server"
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
    kept_tokens: int = Field(
        0,
        ge=0,
        description="retrieved memory that stays in front of the earlier messages of a conversation, tokens beside the "
        "budget, so that the engine's prefix cache holds them; at the limit all of it goes at once; 0: none stays",
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
        description="longest wait at the end of a reply until the turn is on disk; later, the reply says that it is not",
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
        description="make `training.promote_to` automatically of large, stable, often read cubes",
    )
    promote_to: tuple[Literal["adapter", "compact"], ...] = Field(
        ("adapter",), min_length=1, description="what is made of them"
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
    person_headers: tuple[str, ...] = Field(
        PERSON_HEADERS, description="headers that name the person, the first that is sent counts"
    )
    session_headers: tuple[str, ...] = Field(
        SESSION_HEADERS, description="headers that name the session"
    )
    key_headers: tuple[str, ...] = Field(
        KEY_HEADERS, description="headers that carry the key, with or without `Bearer`"
    )
    key_cache_seconds: float = Field(
        2.0, ge=0, description="cache time of a checked key; a revoked key works so long"
    )
    key_stale_seconds: float = Field(
        300.0, ge=0, description="cache time while the vault is unavailable"
    )
    redaction: RedactionConfig = RedactionConfig()
    policies: Path | None = Field(
        None, description="YAML file of the policies of tenants; it is read again when it changes"
    )
    trust_client_kv_transfer_params: bool = Field(
        False,
        description="pass clients' `kv_transfer_params` to the engine, for disaggregated serving behind a "
        "trusted router",
    )
    audit: AuditConfig = AuditConfig()
    limits: LimitsPolicyConfig = LimitsPolicyConfig()
    fairness: FairnessConfig = FairnessConfig()
    secrets: SecretsConfig = SecretsConfig()
    oidc: Annotated[tuple[OidcIssuer, ...], AfterValidator(check_issuers)] = Field(
        (), description="issuers of JWTs ([security](security.md#oidc))"
    )


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
    responses: ResponsesConfig = ResponsesConfig()
    jobs: JobsConfig = JobsConfig()
    limits: LimitsConfig = LimitsConfig()
    imports: ImportsConfig = ImportsConfig()
    http: HttpConfig = HttpConfig()
    mcp: MCPConfig = MCPConfig()
    console: ConsoleConfig = ConsoleConfig()
    serve: ServeConfig = ServeConfig()
    store: StoreConfig = StoreConfig()

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
