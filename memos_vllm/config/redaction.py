"""Configuration of redaction: what is kept out of memory, for all tenants and for single ones."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

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
    "network address",
    "person",
    "location",
    "organisation",
]
NameKind = Literal["person", "location", "organisation"]
NAMES: tuple[str, ...] = get_args(NameKind)
"""Kinds that only a language model of Presidio finds."""
BY_PRESIDIO = ("network address", *NAMES)
"""Kinds without a recogniser of our own."""
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]


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


class PresidioConfig(Section):
    languages: tuple[Language, ...] = Field(
        ("en",),
        min_length=1,
        max_length=16,
        description="languages whose recognisers read each text, by ISO 639 code",
    )
    models: dict[Language, str] = Field(
        default_factory=dict,
        description="spaCy model of a language, an installed package or a folder; a language without one has "
        "recognisers by pattern alone",
    )
    min_score: float = Field(
        0.5, gt=0, le=1, description="Presidio's score from which a part is kept out of memory"
    )

    @model_validator(mode="after")
    def _check_models(self) -> PresidioConfig:
        if unused := sorted(set(self.models) - set(self.languages)):
            raise ValueError(f"`models` names {', '.join(unused)}, which `languages` does not")
        return self


class RedactionConfig(RedactionPolicy):
    recognisers: Literal["built-in", "presidio"] = Field(
        "built-in",
        description="presidio: those of Presidio too, of the extra `presidio`; the built-in ones always run",
    )
    presidio: PresidioConfig = PresidioConfig()
    tenants: dict[str, RedactionPolicy] = Field(
        default_factory=dict,
        description="policies of single tenants, each with `mode` and `kinds`",
    )

    def policy_of(self, tenant: str | None) -> RedactionPolicy:
        """The policy of a tenant; None: of all without one."""
        known = self.tenants.get(tenant) if tenant is not None else None
        return known or RedactionPolicy(mode=self.mode, kinds=self.kinds)

    def unfound(self, policy: RedactionPolicy) -> list[str]:
        """Kinds that a policy names and no recogniser of this configuration finds."""
        if policy.mode == "off":
            return []
        found = set[str]()
        if self.recognisers == "presidio":
            found = set(BY_PRESIDIO if self.presidio.models else set(BY_PRESIDIO) - set(NAMES))
        return [kind for kind in policy.kinds if kind in BY_PRESIDIO and kind not in found]

    def check(self, policy: RedactionPolicy) -> None:
        """Raises ValueError: a kind that nothing finds; the message says what to set."""
        unfound = self.unfound(policy)
        if not unfound:
            return
        needed = "`governance.redaction.recognisers: presidio`"
        if self.recognisers == "presidio" or set(unfound) & set(NAMES):
            needed += " with a spaCy model in `governance.redaction.presidio.models`"
        raise ValueError(f"redaction of {', '.join(unfound)} needs {needed}")

    @model_validator(mode="after")
    def _check_kinds(self) -> RedactionConfig:
        for policy in (self, *self.tenants.values()):
            self.check(policy)
        return self
