"""Who reads what is said, which steps are added to the pipeline, and what fades."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.config.section import Section


class PipelineConfig(Section):
    recall: tuple[str, ...] = Field(
        ("link",),
        description="steps between search and budget, by name: `link`, `rerank`, `diverse`, `distinct`, and entry points `memos.steps`",
    )
    learn: tuple[str, ...] = Field(
        (), description="steps between claims and what is known, likewise"
    )


class LifecycleConfig(Section):
    archive_after_days: float = Field(
        0.0,
        ge=0,
        description="a person's cubes that no prompt had, and nobody changed, for so long are archived; "
        "0: never",
    )


class ReaderConfig(Section):
    mode: Literal["fast", "fine"] = Field(
        "fast",
        description="fast: claims by rules, in English; fine: a model reads each turn, too, in the "
        "background",
    )
    url: str | None = Field(
        None,
        description="of an OpenAI-compatible server (…/v1) whose model reads; default: the served "
        "model, by its own engine",
    )
    model: str | None = Field(None, description="its name there")
    api_key: str | None = Field(None, description="for it")
    timeout_seconds: float = Field(120.0, gt=0, description="for one answer of it")
    rewrite: bool = Field(
        False,
        description="the served model writes out a question that goes on from earlier ones before memory "
        "is searched; it costs a short reply in front of the first token",
    )
    rewrite_seconds: float = Field(
        1.0, gt=0, description="it may take; then the question is searched for as it was asked"
    )
