"""`memos plan`: show and run the scheduler's rules."""

from __future__ import annotations

from typing import Annotated

import typer

from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import ConfigOption, JsonOption, opened

app = typer.Typer(cls=MemosGroup, no_args_is_help=True, help="Rules of the scheduler.")


@app.callback()
def _plan() -> None:
    pass


@app.command()
def promote(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cubes without queueing jobs.")
    ] = False,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Cubes of this tenant only.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue training jobs for large, stable, often read cubes of text (`training.promote_…`)."""
    from memos_vllm.transforms.auto import promotable, promote

    with opened(config) as system:
        cubes = promotable(system, tenant)
        jobs = [] if dry_run else promote(system, tenant)
    by_cube = {job.sources[0]: job.id for job in jobs}
    shown = [
        {
            "cube": cube.id,
            "tenant": cube.tenant,
            "person": cube.person or None,
            "name": cube.name,
            "reads": cube.reads,
            "characters": cube.characters,
            "updated": cube.updated.isoformat(timespec="seconds"),
            "job": by_cube.get(cube.id),
        }
        for cube in cubes
    ]
    if as_json:
        print_json(shown)
    else:
        columns = ("cube", "tenant", "person", "name", "reads", "characters", "updated", "job")
        rows = [tuple(row[column] for column in columns) for row in shown]
        print_table(columns, rows, "no cube meets the thresholds `training.promote_…`")
    if jobs:
        say("a running server runs these jobs; or run one with `memos jobs run`")
