"""`memos doctor --probe`: timing attacks on the operator's own running server, with a signed result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import memos_vllm
from memos_vllm.cli.terminal import print_json, print_table, progress_bar, say
from memos_vllm.cli.vault import opened
from memos_vllm.errors import BadRequest, Conflict
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Role
from memos_vllm.governance.probe_target import Prefix, Stored, Target
from memos_vllm.governance.probing import (
    LEVEL,
    Attack,
    Finding,
    NotStored,
    Separation,
    measured,
    new_texts,
)

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

DEFAULT_URL = "http://127.0.0.1:8000"
TENANTS = ("memos-probe-a", "memos-probe-b")
"""Of the keys that a probe without given keys makes."""
DEFAULT_WORDS = 160
"""Of a prompt, about three tokens each: several blocks of the prefix cache."""
_KEY_SECONDS = 24 * 3600


def probe(
    config: Path | None,
    url: str,
    keys: tuple[str | None, str | None],
    size: tuple[int, int],
    receipt: Path | None,
    as_json: bool,
) -> None:
    """Run the attacks; exit code 1 where one finds a leak, or could not have found it.

    Args:
        keys: of the victim and of another tenant; None: see `_keys`.
        size: rounds of each attack, words of a prompt.
        receipt: file for the signed result.
    """
    if receipt is not None and receipt.exists():
        raise Conflict(f"{receipt} exists already: name another file")
    if keys[0] is None and keys[1] is not None:
        raise BadRequest("give --key with --other-key")
    with opened(config) as system:
        with _keys(system, keys) as given:
            findings, skipped = _findings(system, Target(url), given, size)
        content = {
            "url": url,
            "probed": datetime.now(UTC).isoformat(timespec="seconds"),
            "memos_vllm": memos_vllm.__version__,
            "level": LEVEL,
            "words": size[1],
            "findings": [finding.as_dict() for finding in findings],
            "skipped": skipped,
            "passed": bool(findings) and not any(map(problem, findings)),
        }
        signed = receipts.signed(system.database.audit_keys.current, content, receipts.PROBE_FORMAT)
    if receipt is not None:
        receipt.write_text(json.dumps(signed, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(signed)
    else:
        _print(findings, skipped)
    if not content["passed"]:
        raise typer.Exit(1)


def problem(finding: Finding) -> str | None:
    """What is wrong; None: nothing leaks, and a leak would have been seen."""
    if finding.attacker_hits:
        return f"{finding.attacker_hits} guesses hit what the victim stored"
    if not finding.attacker.is_chance:
        return "the time tells what the victim sent"
    if not finding.conclusive:
        return "not conclusive: the victim's own hits are not seen; the machine must be quiet"
    return None


@contextmanager
def _keys(
    system: MemorySystem, given: tuple[str | None, str | None]
) -> Iterator[tuple[str | None, str | None]]:
    """Keys of victim and attacker.

    Without given ones: keys of two tenants of the probe, revoked afterwards; none where the server
    has no keys, since the first key would close it for everyone else.
    """
    if given[0] is not None or not system.keys.any():
        yield given
        return
    made = [
        system.keys.create(tenant, Role.WRITER, label="memos doctor", ttl_seconds=_KEY_SECONDS)
        for tenant in TENANTS
    ]
    try:
        yield made[0][1], made[1][1]
    finally:
        for record, _ in made:
            system.keys.revoke(record.id)


def _findings(
    system: MemorySystem,
    target: Target,
    keys: tuple[str | None, str | None],
    size: tuple[int, int],
) -> tuple[list[Finding], dict[str, str]]:
    """Findings, and attacks that are left out with the reason."""
    found = []
    attacks, skipped = _attacks(system, target, keys)
    probes, words = size
    texts = new_texts(words)
    try:
        with progress_bar("probing") as progress:
            bar = progress.task_ids[0]
            progress.update(bar, total=len(attacks) * probes)
            for attack in attacks:
                try:
                    found.append(
                        measured(attack, texts, probes, advance=lambda: progress.advance(bar))
                    )
                except NotStored as error:
                    skipped[attack.name] = error.message
    finally:
        target.close()
    return found, skipped


def _attacks(
    system: MemorySystem, target: Target, keys: tuple[str | None, str | None]
) -> tuple[list[Attack], dict[str, str]]:
    victim, other = keys
    person, tenant = "another person of the tenant", "another tenant"
    attacks: list[Attack] = []
    skipped: dict[str, str] = {}
    if system.config.governance.isolation == "person":
        attacks.append(Prefix(target, victim, victim).attack(f"prefix cache, {person}"))
    else:
        skipped[f"prefix cache, {person}"] = "`governance.isolation: tenant` shares it"
    if other is not None:
        attacks.append(Prefix(target, victim, other).attack(f"prefix cache, {tenant}"))
    else:
        skipped[f"prefix cache, {tenant}"] = "give --key and --other-key, of two tenants"
    if system.config.kv.tier == "none":
        skipped["stored KV"] = "`kv.tier` is none"
        return attacks, skipped
    attacks.append(Stored(target, victim, victim).attack(f"stored KV, {person}"))
    if other is not None:
        attacks.append(Stored(target, victim, other).attack(f"stored KV, {tenant}"))
    return attacks, skipped


def _print(findings: list[Finding], skipped: dict[str, str]) -> None:
    rows = [
        (
            finding.attack,
            _shown(finding.attacker),
            finding.attacker_cached_tokens if finding.reports_hits else "not reported",
            _shown(finding.control),
            f"{finding.control_hits} of {finding.probes}",
            problem(finding) or "no leak",
        )
        for finding in findings
    ]
    columns = (
        "attack",
        f"AUC of the attacker ({LEVEL:.0%} interval)",
        "cached tokens",
        "AUC of the victim's repeat",
        "its hits",
        "result",
    )
    print_table(columns, rows, "no attack was run")
    for attack, reason in skipped.items():
        say(f"not probed: {attack}: {reason}")


def _shown(found: Separation) -> str:
    return f"{found.auc:.3f} ({found.low:.3f} to {found.high:.3f})"
