"""The configuration tree: sections, keys, defaults and limits. `config.load` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from memos_vllm.config.reader import LifecycleConfig, PipelineConfig, ReaderConfig
from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.config.section import Section

OPEN_ROUTES = ("/health", "/ping", "/version", "/docs", "/docs/oauth2-redirect", "/openapi.json")


class DatabaseConfig(Section):
    url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite under `home`")
    busy_timeout_seconds: float = Field(5.0, gt=0, description="how long a write waits for a lock")
    pool_size: int = Field(8, ge=1, description="connections kept")


class PayloadConfig(Section):
    url: str | None = Field(None, description="fsspec URL for payload files; default: under `home`")


class ChromaConfig(Section):
    mode: Literal["embedded", "http"] = Field(
        "embedded", description="own store, or a Chroma server"
    )
    path: Path | None = Field(
        None, description="folder of the embedded store; default: under `home`"
    )
    host: str = Field("127.0.0.1", description="of the Chroma server")
    port: int = Field(8001, ge=1, le=65535, description="of the Chroma server")
    ssl: bool = Field(False, description="speak TLS to the Chroma server")
    headers: dict[str, str] = Field(default_factory=dict, description="sent to the Chroma server")


class EmbedderConfig(Section):
    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="sentence-transformers name or folder"
    )
    device: str = Field("cpu", description="torch device of the embedder")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16: faster where the processor has units for it (AVX512_BF16, AMX) and on a "
        "GPU; the index is rebuilt once",
    )
    processes: int = Field(
        1,
        ge=0,
        le=64,
        description="processes that embed beside the server's; 0: in a thread of the server",
    )
    threads: int = Field(1, ge=1, description="CPU threads of each embedder, beside the engine's")
    batch_size: int = Field(8, ge=1, description="texts embedded together")
    batch_wait_ms: float = Field(1.0, ge=0, description="how long a text waits for company")
    query_cache: int = Field(4096, ge=0, description="query embeddings kept in memory")


class PromptConfig(Section):
    budget_tokens: int = Field(
        1024, ge=0, description="memory in one prompt, in the model's tokens"
    )
    context_share: float = Field(
        0.5, gt=0, le=1, description="memory never takes more of the context"
    )
    reply_reserve_tokens: int = Field(
        256, ge=1, description="kept free where no max_tokens is given"
    )
    deadline_seconds: float = Field(
        2.0, gt=0, description="after it the chat goes on without memory"
    )


class RememberConfig(Section):
    enabled: bool = Field(True, description="whether turns become memory")
    durable_wait_seconds: float = Field(
        0.25,
        ge=0,
        description="the end of a reply waits at most this long for the turn to be on disk",
    )
    items_per_cube: int = Field(
        64, ge=1, description="a conversation's cube is continued in a new one"
    )
    claims: bool = Field(True, description="facts and preferences are read out of what is said")


NEAR_PROBES = (
    "What does the text above say?",
    "Which names, numbers and dates are mentioned?",
    "Say the most important point in one sentence.",
)


class KVConfig(Section):
    tier: Literal["fs", "lmcache", "none"] = Field(
        "fs",
        description="where KV outlives the engine: in files of ours; in these and, for "
        "conversations, in LMCache's server; or nowhere",
    )
    lmcache_url: str = Field(
        "tcp://127.0.0.1:5555", description="of `lmcache server`, where the engine reaches it"
    )
    lmcache_http_urls: tuple[str, ...] = Field(
        ("http://127.0.0.1:8080",),
        description="HTTP frontends of all replicas' `lmcache server`s: through each KV is deleted",
    )
    lmcache_hash: str = Field("blake3", description="their `--hash-algorithm`")
    lmcache_timeout_seconds: float = Field(
        5.0, gt=0, description="what LMCache has not answered by then is computed"
    )
    lmcache_heartbeat_seconds: float = Field(
        2.0, gt=0, le=10, description="how often its server is looked for"
    )
    path: Path | None = Field(None, description="folder of KV on disk; default: under `home`")
    max_bytes: int = Field(16 << 30, ge=0, description="KV on disk; what is worth least goes first")
    ram_path: Path = Field(Path("/dev/shm"), description="shared memory for the hot part of it")
    ram_bytes: int = Field(2 << 30, ge=0, description="KV in shared memory; 0: none")
    prefetch: bool = Field(
        True,
        description="bring KV into shared memory ahead of its use: at the start what was used last, in "
        "a session what its person used",
    )
    history: bool = Field(True, description="keep the KV of conversations, not only of cubes")
    segment_tokens: int = Field(
        128, ge=16, description="shortest piece of a conversation that is kept, and loaded"
    )
    promote_uses: float = Field(
        2.0,
        gt=0,
        description="heads used so often of late (an hour ago counts half) are built again when a "
        "cube of theirs changes",
    )
    near_heal: bool = Field(
        True, description="build what was served approximately, for the next request with it"
    )
    near_recompute_tokens: int = Field(
        0, ge=0, description="with approximate KV, how much of its end is computed all the same"
    )
    near_max_kl: float = Field(
        0.25,
        ge=0,
        description="approximate KV from a context that was measured to cost more, nats of the first "
        "token, is not used",
    )
    near_probes: tuple[str, ...] = Field(
        NEAR_PROBES, description="questions that this is measured with, in the background"
    )
    shared_system_prompt_people: int = Field(
        3,
        ge=0,
        description="a client's system message is the tenant's, not a person's, once so many people "
        "of the tenant have sent it; 0: never, 1: always",
    )


class AdaptersConfig(Section):
    merge: Literal["auto", "svd", "ties", "dare_ties", "none"] = Field(
        "none",
        description="how several adapters of one request become one; auto: their exact sum where the "
        "ranks fit `--max-lora-rank`, else the nearest to it (svd); none: the best one alone. What "
        "adapters learnt from text interferes: see the benchmark `recall`",
    )
    merged_at_most: int = Field(4, ge=2, description="adapters merged into one")


class TrainingConfig(Section):
    in_server: bool = Field(
        True,
        description="a server does jobs that wait; false: only `memos train` and `memos jobs run`",
    )
    model: str | None = Field(
        None, description="base model where no server runs; default: `serve.model`"
    )
    max_seconds: float = Field(3600.0, gt=0, description="one job")
    jobs_per_tenant: int = Field(16, ge=1, description="that wait or run")
    max_bytes: int = Field(16 << 30, ge=1, description="memory of the process that trains")
    promote: bool = Field(
        False,
        description="text that is read often, is stable and large becomes an adapter by itself",
    )
    promote_after_days: float = Field(7.0, ge=0, description="without a change")
    promote_reads: int = Field(100, ge=1, description="requests that it was read by")
    promote_characters: int = Field(4000, ge=1, description="of its text")
    device: str | None = Field(
        None, description="torch device of the process that trains; default: CUDA where it is"
    )
    jobs_kept_days: float = Field(30.0, ge=0, description="jobs that have ended are shown so long")
    threads: int | None = Field(
        None,
        ge=1,
        description="of the process that trains, on a CPU; default: half of the cores beside a server, "
        "all of them otherwise",
    )


class GovernanceConfig(Section):
    isolation: Literal["person", "tenant"] = Field(
        "person", description="who shares a prefix cache"
    )
    operator_tenant: str = Field(
        "operator", description="its admins may use the engine's own controls"
    )
    open_routes: tuple[str, ...] = Field(OPEN_ROUTES, description="GET routes that need no key")
    key_cache_seconds: float = Field(2.0, ge=0, description="how long a revoked key may still work")
    key_stale_seconds: float = Field(300.0, ge=0, description="and while the vault does not answer")
    trust_client_kv_transfer_params: bool = Field(
        False, description="for disaggregated serving behind a router of your own"
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
    chunk_tokens: int = Field(512, ge=16, description="longest passage, in the embedder's tokens")
    text_bytes: int = Field(8 << 20, ge=1, description="text in one request")
    document_bytes: int = Field(32 << 20, ge=1, description="one document that is sent or imported")
    items_per_cube: int = Field(10_000, ge=1, description="items in one cube")
    batch_cubes: int = Field(256, ge=1, description="cubes in one batch")
    adapter_bytes: int = Field(256 << 20, ge=1, description="one adapter's weights")
    adapters_bytes_per_tenant: int = Field(
        16 << 30, ge=1, description="all versions of a tenant's adapters"
    )
    plans_kept_per_tenant: int = Field(10_000, ge=1, description="plans that `explain` can show")


class ServeConfig(Section):
    model: str | None = Field(None, description="what `memos serve` serves when no model is named")
    flags: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="vLLM flags, without their dashes"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="set where not set already"
    )


class Config(Section):
    home: Path = Field(
        Path("~/.memos"), description="where everything lives that has no URL of its own"
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
    def kv_path(self) -> Path:
        return (self.kv.path or self.root / "kv").expanduser().absolute()

    @property
    def adapters_path(self) -> Path:
        return self.root / "adapters"

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
