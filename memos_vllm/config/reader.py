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


class ReaderConfig(Section):
    mode: Literal["fast", "fine"] = Field(
        "fast",
        description="fast: claims by rules, in English; fine: also by a model, in the background",
    )
    timezone: Annotated[str, AfterValidator(zones.checked)] = Field(
        "UTC", description="IANA zone of people whose requests name none (`memory.timezone`)"
    )
    url: str | None = Field(
        None,
        description="URL of an OpenAI-compatible server (…/v1) for `fine`; default: the served model, in "
        "its own engine",
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
