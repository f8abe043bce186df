"""Configuration of redaction: what is kept out of memory, for all tenants and for single ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from memos_vllm.config.section import Section

RedactionMode = Literal["off", "mark", "remove"]
RedactionKind = Literal[
    "secrets",
    "private key",
    "password",
    "key",
    "bank account",
    "card number",
    "social security number",
    "code",
    "email",
    "phone",
    "national id",
]


class RedactionPolicy(Section):
    mode: RedactionMode = Field(
        "mark",
        description="mark: replaced by its kind in brackets; remove: cut out; off: stored as it is",
    )
    kinds: tuple[RedactionKind, ...] = Field(
        ("secrets",),
        description="what is kept out of memory; secrets: private keys, passwords, keys, codes, card, bank "
        "account and social security numbers",
    )


class RedactionConfig(RedactionPolicy):
    tenants: dict[str, RedactionPolicy] = Field(
        default_factory=dict,
        description="policies of single tenants, each with `mode` and `kinds`",
    )

    def policy_of(self, tenant: str | None) -> RedactionPolicy:
        """The policy of a tenant; None: of all without one."""
        known = self.tenants.get(tenant) if tenant is not None else None
        return known or RedactionPolicy(mode=self.mode, kinds=self.kinds)
