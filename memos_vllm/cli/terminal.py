"""Terminal output: stdout and stderr consoles, tables, and one-line errors without a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from memos_vllm.errors import MemosError

_PIPE_WIDTH = 240  # without a terminal, ids must not be cut at column 80


class MemosGroup(TyperGroup):
    """Command group that turns a `MemosError` into one line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MemosError as error:
            typer.echo(f"memos: {printable(error.message)}", err=True)
            raise typer.Exit(1) from error


def stdout() -> Console:
    """A console on stdout; created for each use, because tests and pipes replace `sys.stdout`."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def stderr() -> Console:
    width = None if sys.stderr.isatty() else _PIPE_WIDTH
    return Console(stderr=True, highlight=False, width=width)


def say(message: str) -> None:
    """Print a message on stderr; stdout holds only the result."""
    typer.echo(printable(message), err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print a table, or the message `empty` on stderr. Cells are plain text, not truncated."""
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    stdout().print(table)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        progress.add_task(title, total=None)
        yield progress


def printable(text: str) -> str:
    """Replace control characters: escape sequences in memory must not reach the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def moment(when: datetime | None) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S") if when else ""


def _cell(value: object) -> str:
    if value is None:
        return ""
    return moment(value) if isinstance(value, datetime) else printable(str(value))
