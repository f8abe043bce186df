"""`memos doctor`: check the installation, with a remedy for each problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import typer
from rich.table import Table
from rich.text import Text

from memos_vllm.cli.checks import (
    Check,
    check_engine,
    check_features,
    check_home,
    check_memory,
    has_cuda,
)
from memos_vllm.cli.reader_check import check_reader
from memos_vllm.cli.terminal import print_json, printable, stdout
from memos_vllm.cli.vault import ConfigOption, JsonOption, build
from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config

_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "bold red"}


def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the installation; exit code 1 if a component of memory is broken."""
    checks = list(_checks(load_config(config)))
    healthy = all(check.status != "broken" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        stdout().print(_table(checks))
    if not healthy:
        raise typer.Exit(1)


def _checks(config: Config) -> Iterator[Check]:
    cuda = has_cuda()
    yield from check_engine(cuda)
    home = check_home(config)
    yield home
    if home.status != "broken":  # the other checks read files below home
        system = build(config)
        try:
            yield from check_memory(system)
        finally:
            system.close()
    yield check_reader(config)
    yield from check_features(config, cuda)


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        state = Text(check.status, style=_STYLE[check.status])
        table.add_row(
            check.subject, state, Text(printable(check.found)), Text(printable(check.remedy))
        )
    return table
