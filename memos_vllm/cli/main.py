"""`memos`: entry point of the command line, and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

import memos_vllm
from memos_vllm.cli import (
    audit,
    cubes,
    doctor,
    erase,
    grants,
    keys,
    lifecycle,
    migrate,
    plan,
    store,
    training,
    transfer,
)
from memos_vllm.cli.compact import compact
from memos_vllm.cli.redact import redact
from memos_vllm.cli.reindex import reindex
from memos_vllm.cli.search import search
from memos_vllm.cli.serve import serve
from memos_vllm.cli.terminal import MemosGroup

app = typer.Typer(
    name="memos",
    cls=MemosGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Memory for vLLM: serve a model with memory, and manage that memory.",
)

app.command(
    options_metavar="[MODEL] [--config FILE] [ANY VLLM FLAG ...]",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve)
app.add_typer(keys.app, name="keys")
app.add_typer(cubes.app, name="cubes")
app.add_typer(audit.app, name="audit")
app.add_typer(grants.app, name="grants")
app.add_typer(grants.groups, name="groups")
app.command()(search)
app.command()(training.train)
app.command()(training.decode)
app.command()(compact)
app.add_typer(training.app, name="jobs")
app.add_typer(plan.app, name="plan")
app.add_typer(transfer.app, name="import")
app.add_typer(store.app, name="store")
app.command()(migrate.export)
app.command()(reindex)
app.command()(redact)
app.command()(erase.erase)
app.add_typer(erase.app, name="erasure")
app.command()(lifecycle.sweep)
app.command()(lifecycle.restore)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memos-vllm {memos_vllm.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    app(prog_name="memos")
