"""Section `governance.oidc`: issuers whose JWTs authenticate people."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from memos_vllm.config.section import Section

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Asymmetric ones only: the key that verifies cannot sign."""


class OidcIssuer(Section):
    issuer: str = Field(description="`iss` of its tokens, exactly")
    audience: tuple[str, ...] = Field(min_length=1, description="`aud`: one of these")
    jwks_url: str | None = Field(
        None, description="its keys; default: by discovery (`/.well-known/openid-configuration`)"
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "ES256", "EdDSA"), min_length=1, description="signature algorithms"
    )
    types: tuple[str, ...] = Field(
        ("at+jwt", "jwt"), min_length=1, description="header `typ`; a token without one is a `jwt`"
    )
    tenant: str | None = Field(None, description="tenant of all its tokens")
    tenant_claim: str | None = Field(
        None, description="claim that names the tenant, by `tenants`; instead of `tenant`"
    )
    tenants: dict[str, str] = Field(
        default_factory=dict, description="value of `tenant_claim` → tenant; others are refused"
    )
    person_claim: str = Field("sub", description="claim with the person's name")
    person_prefix: str = Field(
        "", max_length=64, description="put before the name; two issuers of one tenant need two"
    )
    role_claim: str | None = Field(
        None, description="claim with role names, a list or a text with spaces"
    )
    roles: dict[str, Literal["reader", "writer", "admin"]] = Field(
        default_factory=dict, description="value in `role_claim` → role; the highest counts"
    )
    role: Literal["reader", "writer"] = Field("writer", description="role without such a value")
    scope_claim: str | None = Field(
        None, description="claim with scopes (`scope`, `scp`); null: all that the role has"
    )
    scopes: dict[str, str] = Field(
        default_factory=dict, description="value in `scope_claim` → scope; default: the same name"
    )
    required_claims: tuple[str, ...] = Field((), description="claims that must be there, besides")
    leeway_seconds: float = Field(30.0, ge=0, le=300, description="for clocks that differ")
    longest_seconds: float = Field(
        86_400.0, gt=0, description="longest life of a token, from `iat` (or now) to `exp`"
    )
    jwks_seconds: float = Field(300.0, gt=0, description="how long fetched keys are fresh")
    jwks_retry_seconds: float = Field(
        10.0, gt=0, description="shortest time between fetches, also for unknown keys"
    )
    jwks_stale_seconds: float = Field(
        86_400.0, ge=0, description="how long keys count while the issuer does not answer"
    )

    @model_validator(mode="after")
    def _check(self) -> OidcIssuer:
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("give `tenant`, or `tenant_claim` with `tenants`")
        if self.tenant_claim is not None and not self.tenants:
            raise ValueError("`tenant_claim` needs `tenants`: the values that are allowed")
        for url in (self.issuer, self.jwks_url):
            if url is not None and not is_secure(url):
                raise ValueError(f"{url}: an issuer is reached by https (or on loopback)")
        return self

    @property
    def allowed_tenants(self) -> frozenset[str]:
        return frozenset([self.tenant] if self.tenant is not None else self.tenants.values())


def check_issuers(issuers: tuple[OidcIssuer, ...]) -> tuple[OidcIssuer, ...]:
    """Raises ValueError: two have the same issuer, or could name one person of one tenant."""
    for number, one in enumerate(issuers):
        for other in issuers[number + 1 :]:
            if one.issuer == other.issuer:
                raise ValueError(f"{one.issuer} is listed twice")
            if one.allowed_tenants & other.allowed_tenants and (
                one.person_prefix.startswith(other.person_prefix)
                or other.person_prefix.startswith(one.person_prefix)
            ):
                raise ValueError(
                    f"{one.issuer} and {other.issuer} name people of the same tenant: give them different "
                    "`person_prefix`es, neither of which begins with the other"
                )
    return issuers


def is_secure(url: str) -> bool:
    """Whether a URL is https, or http on a loopback address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return bool(host)
        return parts.scheme == "http" and (
            host == "localhost" or ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        return False
