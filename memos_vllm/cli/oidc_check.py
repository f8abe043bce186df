"""Check of `memos doctor`: the issuers of `governance.oidc` answer, and have keys that fit."""

from __future__ import annotations

from collections.abc import Iterator

from memos_vllm.cli.checks import Check
from memos_vllm.config.tree import Config
from memos_vllm.errors import IdentityUnavailable
from memos_vllm.governance.jwks import Jwks


def check_oidc(config: Config) -> Iterator[Check]:
    for issuer in config.governance.oidc:
        subject = f"issuer {issuer.issuer}"
        try:
            keys = Jwks(issuer).fetch()
        except IdentityUnavailable as error:
            yield Check(subject, "broken", str(error), "check `governance.oidc` and the network")
            continue
        fitting = [each for each in keys.values() if each.algorithm in (None, *issuer.algorithms)]
        if fitting:
            tenants = ", ".join(sorted(issuer.allowed_tenants))
            yield Check(subject, "ok", f"{len(fitting)} keys; tenant {tenants}")
        else:
            yield Check(
                subject,
                "broken",
                f"none of its {len(keys)} keys fits {', '.join(issuer.algorithms)}",
                "set `algorithms` of the issuer to what it signs with",
            )
