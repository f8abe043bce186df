"""Configuration of the reader, of pipeline steps and of archiving."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from memos_vllm import zones
from memos_vllm.config.section import Section


class PipelineConfig(Section):
    recall: tuple[str, ...] = Field(
        ("link",),
        description="steps between search and budget, by name: `link`, `rerank`, `diverse`, `distinct`, and "
        "entry points in the group `memos.steps`",
    )
    learn: tuple[str, ...] = Field(
        (), description="steps between claim extraction and storage, by name, likewise"
    )


class LifecycleConfig(Section):
    archive_after_days: float = Field(
        0.0,
        ge=0,
        description="days without a use in a prompt and without a change after which a person's cube is "
        "archived; 0: never",
    )
    sweep_seconds: float = Field(
        300.0, gt=0, description="interval of sweeps: expiry, decay and retention"
    )
    as_of_items: int = Field(
        10_000,
        ge=1,
        description="items of a past moment (`as_of`) that are searched, the newest cubes first",
    )
    as_of_embedded: int = Field(
        256,
        ge=0,
        description="items of a past moment that are embedded for one request, as they have changed since; "
        "further ones are found by words",
    )


class DocumentsConfig(Section):
    processes: int = Field(
        2, ge=1, le=64, description="documents parsed at a time, each in a process of its own"
    )
    seconds: float = Field(
        60.0, gt=0, description="time limit of one document, also of processor time"
    )
    memory_bytes: int = Field(
        1 << 30, ge=256 << 20, description="memory limit of a parsing process (address space)"
    )
    output_bytes: int = Field(32 << 20, ge=1, description="text of one document, characters")
    depth: int = Field(5000, ge=1, description="nested HTML elements")
    wait_seconds: float = Field(
        30.0, ge=0, description="how long a document waits for a parsing process; then 503"
    )


class ReaderConfig(Section):
    mode: Literal["auto", "fast", "fine"] = Field(
        "auto",
        description="auto: claims by rules, in English, and by a model if it passes an exam after the start; "
        "fast: by rules alone; fine: by both, without an exam",
    )
    timezone: Annotated[str, AfterValidator(zones.checked)] = Field(
        "UTC", description="IANA zone of people whose requests name none (`memory.timezone`)"
    )
    url: str | None = Field(
        None,
        description="URL of an OpenAI-compatible server (…/v1) whose model reads; default: the served model, "
        "in its own engine",
    )
    continued: bool = Field(
        True,
        description="the served model reads behind the conversation that it answered, whose KV is cached, "
        "instead of with a prompt of its own",
    )
    batch: int = Field(
        4, ge=1, le=16, description="most turns of a session that are read by one request"
    )
    exam_facts: float = Field(
        0.7, ge=0, le=1, description="exam: least share of the facts that the model must keep"
    )
    exam_junk: float = Field(
        0.05, ge=0, le=1, description="exam: highest share of junk among the items that it writes"
    )
    exam_negations: float = Field(
        0.7, ge=0, le=1, description="exam: least share of the negations that must be right"
    )
    exam_changes: float = Field(
        0.95,
        ge=0,
        le=1,
        description="exam: least share of the pairs of statements that it must judge right, to judge changes",
    )
    model: str | None = Field(None, description="model name on `reader.url`")
    api_key: str | None = Field(None, description="API key of `reader.url`")
    timeout_seconds: float = Field(
        120.0, gt=0, description="timeout of one request to `reader.url`"
    )
    rewrite: bool = Field(
        False,
        description="rewrite a follow-up question into a standalone one before the search, with the served "
        "model; adds a short generation to the time to first token",
    )
    rewrite_seconds: float = Field(
        1.0,
        gt=0,
        description="timeout of the rewrite; after it the search uses the original question",
    )
    documents: DocumentsConfig = DocumentsConfig()
