"""Section `governance.secrets`: where the server's own secrets come from."""

from __future__ import annotations

from pydantic import Field, field_validator

from memos_vllm.config.section import Section

CACHE_SALT, PERSON_TOKENS = "cache_salt", "person_tokens"
"""Names of secrets that the database makes where they have no source."""
_SCHEMES = ("file:", "env:", "exec:", "https:", "http://127.0.0.1")


class SecretsConfig(Section):
    cache_salt: str | None = Field(
        None,
        description="source of the secret of prefix cache salts and scopes of stored KV: `file:PATH`, "
        "`env:NAME`, `exec:COMMAND`, or `https://HOST/PATH#FIELD`; default: made in the database",
    )
    person_tokens: str | None = Field(
        None,
        description="source of the secret that signs person tokens; default: made in the database",
    )
    audit: str | None = Field(
        None,
        description="source of the secrets of the audit log, in place of `governance.audit.key_file`",
    )
    token: str | None = Field(
        None,
        description="source of the bearer token for `https:` sources, such as `env:VAULT_TOKEN`",
    )
    refresh_seconds: float = Field(
        60.0, gt=0, description="how often sources are read again; an older secret serves meanwhile"
    )

    @field_validator("cache_salt", "person_tokens", "audit", "token")
    @classmethod
    def _has_scheme(cls, source: str | None) -> str | None:
        if source is not None and not source.startswith(_SCHEMES):
            raise ValueError("a source begins with file:, env:, exec: or https:")
        return source
