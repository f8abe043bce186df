"""Sections `governance.limits`, `governance.fairness` and `http`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.config.section import Section


class TenantLimits(Section):
    """Limits of one tenant; None: no limit."""

    requests_per_minute: int | None = Field(None, ge=1, description="requests a minute of a tenant")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="prompt and reply tokens a minute of a tenant"
    )
    concurrent_requests: int | None = Field(
        None, ge=1, description="requests of a tenant at a time in one server process"
    )
    person_requests_per_minute: int | None = Field(
        None, ge=1, description="requests a minute of each person"
    )
    person_tokens_per_minute: int | None = Field(
        None, ge=1, description="prompt and reply tokens a minute of each person"
    )
    person_concurrent_requests: int | None = Field(
        None, ge=1, description="requests of each person at a time in one server process"
    )
    cubes: int | None = Field(None, ge=0, description="cubes of a tenant")
    items: int | None = Field(None, ge=0, description="items in the cubes of a tenant")
    text_bytes: int | None = Field(
        None, ge=0, description="text cubes of a tenant, all versions, bytes"
    )
    adapters: int | None = Field(None, ge=0, description="adapters of a tenant")
    adapter_bytes: int | None = Field(
        None,
        ge=0,
        description="adapters of a tenant, all versions, bytes; default: "
        "`limits.adapters_bytes_per_tenant`",
    )
    kv_bytes: int | None = Field(
        None, ge=0, description="stored KV of a tenant on disk, bytes; above it no more is stored"
    )
    responses: int | None = Field(
        None, ge=0, description="stored replies of `/v1/responses` and conversations of a tenant"
    )
    response_bytes: int | None = Field(
        None, ge=0, description="stored replies and conversations of a tenant, bytes"
    )
    person_responses: int | None = Field(
        None, ge=0, description="stored replies and conversations of each person"
    )
    person_response_bytes: int | None = Field(
        None, ge=0, description="stored replies and conversations of each person, bytes"
    )
    person_cubes: int | None = Field(None, ge=0, description="cubes of each person")
    person_items: int | None = Field(None, ge=0, description="items in the cubes of each person")
    person_text_bytes: int | None = Field(
        None, ge=0, description="text cubes of each person, all versions, bytes"
    )
    training_minutes_per_day: float | None = Field(
        None, ge=0, description="training of a tenant's adapters, minutes a day (UTC)"
    )
    injected_tokens: int | None = Field(
        None, ge=0, description="memory in one prompt, tokens; above what a request asks for"
    )


class LimitsPolicyConfig(TenantLimits):
    storage_url: str = Field(
        "memory://",
        description="where rates are counted. memory://: each server process counts alone; "
        "redis://HOST:PORT/DB: all processes together",
    )
    storage_timeout_seconds: float = Field(
        0.25,
        gt=0,
        description="longest wait for the storage; then each process counts alone for 5 s",
    )
    strategy: Literal["sliding-window-counter", "moving-window", "fixed-window"] = Field(
        "sliding-window-counter", description="how requests a minute are counted"
    )
    tenants: dict[str, TenantLimits] = Field(
        default_factory=dict,
        description="limits of single tenants, by the keys above; what is not named is as for all",
    )


class FairnessConfig(Section):
    enabled: bool = Field(
        True, description="share the engine between tenants by the tokens that each was served"
    )
    weights: dict[str, float] = Field(
        default_factory=dict, description="shares of single tenants; default: 1.0 each"
    )
    running: int | None = Field(
        None,
        ge=1,
        description="requests in the engine at a time while several tenants ask, and beyond them, up to "
        "`--max-num-seqs`, of tenants that have less than half as many there; default: 8 on a CPU, "
        "else `--max-num-seqs`",
    )
    hold_seconds: float = Field(
        10.0, ge=0, description="how long a tenant counts as asking after its last request"
    )
    input_weight: float = Field(1.0, gt=0, description="cost of a prompt token")
    output_weight: float = Field(2.0, gt=0, description="cost of a reply token")
    waiting: int = Field(
        1024, ge=1, description="requests that wait for their turn, of all tenants; then 503"
    )
    waiting_per_tenant: int = Field(
        256, ge=1, description="requests of one tenant that wait for their turn; then 429"
    )
    wait_seconds: float = Field(
        120.0, gt=0, description="longest wait of a request for its turn; then 503"
    )


class HttpConfig(Section):
    body_bytes: int = Field(64 << 20, ge=1, description="body of one request, bytes")
    bodies_bytes: int = Field(
        1 << 30, ge=1, description="bodies of all requests in one server process, bytes; then 503"
    )
    header_seconds: float = Field(
        10.0, gt=0, description="how long a request line and headers take"
    )
    header_bytes: int = Field(65536, ge=1024, description="request line and headers, bytes")
    send_seconds: float = Field(
        60.0, gt=0, description="how long a client may not read; then its request ends"
    )
    body_seconds: float = Field(
        30.0, gt=0, description="how long a body takes beside `body_bytes_per_second`"
    )
    body_bytes_per_second: int = Field(16384, ge=1, description="slowest upload of a body")
    requests: int = Field(
        2048, ge=1, description="requests in one server process, waiting ones too; then 503"
    )
