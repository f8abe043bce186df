"""`memos sweep` and `memos restore`: ageing of memory, and its return to a past moment."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from memos_vllm.as_of import as_of_parameter
from memos_vllm.cli.terminal import print_json, print_table, say
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    TenantOption,
    administrator,
    can_index,
    opened,
    say_index_pending,
)
from memos_vllm.cube.ids import to_us
from memos_vllm.governance.principal import LOCAL_TENANT


def sweep(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Sweep one tenant; default: all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what a sweep would do.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Apply expiry, decay and retention now; a server does so every lifecycle.sweep_seconds."""
    from memos_vllm.learning.sweep import Sweep
    from memos_vllm.vault.jobs import Leases

    total: Counter[str] = Counter()
    with opened(config) as system:
        sweeping = Sweep(system)
        job = None if dry_run else sweeping.alone()
        if job is None and not dry_run:
            say("another process sweeps: nothing was done here")
            return
        leases = Leases(system.jobs)
        steps = sweeping.run(tenant, dry_run=dry_run)
        try:
            if job is None:
                for step in steps:
                    total[step.what] += step.count
                    typer.echo(f"{step.what} {step.tenant} {step.cube} {step.count}")
            else:
                with leases.held(job):
                    for step in steps:
                        total[step.what] += step.count
                system.jobs.done(job)
        finally:
            leases.stop()
    if as_json:
        print_json(dict(total))
    else:
        found = ", ".join(f"{count} {what}" for what, count in sorted(total.items())) or "nothing"
        say(f"a sweep would do: {found}" if dry_run else f"swept: {found}")


def restore(
    person: Annotated[str, typer.Argument(help="Person whose memory is restored.")],
    as_of: Annotated[
        str, typer.Option("--as-of", help="Past moment: ISO 8601 with a zone, or seconds ago.")
    ],
    tenant: TenantOption = LOCAL_TENANT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the differences.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Restore a person's memory to a past moment, as new versions."""
    from memos_vllm.learning.restore import Difference, Restoring
    from memos_vllm.vault.jobs import Lane, Leases, new_holder

    moment = as_of_parameter(as_of, "--as-of")
    assert moment is not None
    with opened(config) as system:
        caller, restoring = administrator(tenant), Restoring(system)
        if dry_run:
            found = restoring.preview(caller, person, to_us(moment))
        else:
            indexed_here = can_index(system)
            ordered = system.restores.add(caller, person, to_us(moment))
            with system.database.write() as session:
                job = system.jobs.claim_in(session, Lane.UPKEEP, new_holder(), ordered.id)
            if job is None:
                say(f"restore {ordered.id}: a running server has taken it over")
                return
            leases = Leases(system.jobs)
            with leases.held(job):
                restoring.job(ordered.id)
            leases.stop()
            system.jobs.done(job)
            report = system.restores.get(caller, person, ordered.id).report
            found = [Difference.model_validate(each) for each in report["cubes"]]
            say_index_pending(system, indexed_here)
    if as_json:
        print_json([each.model_dump() for each in found])
        return
    rows = [(each.cube, each.action, each.added, each.removed, each.state) for each in found]
    print_table(("cube", "action", "added", "removed", "state"), rows, "nothing differs")
