"""`memos redact`: apply the redaction policy to what is stored already."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from memos_vllm.cli.terminal import say
from memos_vllm.cli.vault import ConfigOption, JsonOption, TenantOption, administrator, opened
from memos_vllm.governance.principal import LOCAL_TENANT


def redact(
    tenant: TenantOption = LOCAL_TENANT,
    apply: Annotated[
        bool,
        typer.Option("--apply/--dry-run", help="Change what is found; default: only report it."),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find secrets and personal data that the policy keeps out; --apply removes them, and old versions."""
    from memos_vllm.learning.redact_stored import redact_stored

    total, count, problems = Counter[str](), 0, 0
    with opened(config) as system:
        for found in redact_stored(system, administrator(tenant), apply=apply):
            count += 1
            total += found.kinds
            problems += found.problem is not None
            if as_json:
                typer.echo(
                    json.dumps(
                        {
                            "cube": found.cube,
                            "person": found.person,
                            "kinds": dict(found.kinds),
                            "older_versions": found.older,
                            "done": found.done,
                            "problem": found.problem,
                        }
                    )
                )
            else:
                kinds = ", ".join(f"{number} {kind}" for kind, number in found.kinds.items())
                state = found.problem or ("redacted" if found.done else "found")
                say(
                    f"{found.cube}: {kinds or 'nothing'} in it, {found.older} older versions: {state}"
                )
    kinds = ", ".join(f"{number} {kind}" for kind, number in total.items()) or "nothing"
    say(f"{count} cubes: {kinds}" + ("" if apply or not count else "; --apply removes it"))
    if problems:
        raise typer.Exit(1)
