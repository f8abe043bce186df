"""Section `store`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from memos_vllm.config.section import Section

RegistryName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class StoreConfig(Section):
    registries: dict[RegistryName, str] = Field(
        default_factory=dict,
        description="registries of bundles by name: a folder, or https://HOST/PATH of an OCI registry; the Memory "
        "API installs from these alone",
    )
    insecure: bool = Field(False, description="allow plain HTTP to registries on other machines")
    bundle_bytes: int = Field(1 << 30, ge=1, description="all layers of one version, bytes")
    perplexity_ratio: float = Field(
        1.02,
        ge=1,
        description="an adapter of a bundle is used if the perplexity of unrelated text is at most so many times the "
        "base model's",
    )
    check_hours: float = Field(
        24.0, gt=0, description="interval of looking for newer versions of bundles that follow them"
    )
