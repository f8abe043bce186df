"""`memos doctor`: check the installation, with a remedy for each problem; `--probe`: attack it; `--profile`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from memos_vllm.cli.checks import (
    Check,
    check_engine,
    check_features,
    check_front_end,
    check_home,
    check_memory,
    has_cuda,
)
from memos_vllm.cli.oidc_check import check_oidc
from memos_vllm.cli.probe import DEFAULT_URL, DEFAULT_WORDS, probe
from memos_vllm.cli.profile import profile
from memos_vllm.cli.reader_check import check_reader
from memos_vllm.cli.redaction_check import check_redaction
from memos_vllm.cli.terminal import print_json, printable, stdout
from memos_vllm.cli.vault import ConfigOption, JsonOption, build
from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config

_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "bold red"}


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    probing: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Attack the running server instead: can strangers time what others sent? The server must "
            "be idle.",
        ),
    ] = False,
    profiling: Annotated[
        float | None,
        typer.Option(
            "--profile",
            metavar="SECONDS",
            min=0.1,
            max=60,
            help="Where the running server's own process spends its processor time, instead.",
        ),
    ] = None,
    url: Annotated[str, typer.Option("--url", help="Server to probe or to profile.")] = DEFAULT_URL,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar="MEMOS_PROBE_KEY",
            help="Key of a writer or admin whose tenant is probed; default: keys of two tenants of the "
            "probe's own, revoked afterwards. With --profile: of an admin of the operator's tenant.",
        ),
    ] = None,
    other_key: Annotated[
        str | None,
        typer.Option(
            "--other-key",
            envvar="MEMOS_PROBE_OTHER_KEY",
            help="Key of another tenant, which attacks.",
        ),
    ] = None,
    probes: Annotated[int, typer.Option("--probes", help="Rounds of each attack.")] = 100,
    words: Annotated[
        int, typer.Option("--words", min=20, help="Words of a prompt, about three tokens each.")
    ] = DEFAULT_WORDS,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="File for the signed result of the probe.")
    ] = None,
) -> None:
    """Check the installation; exit code 1 if a component of memory is broken.

    With --probe: exit code 1 if a stranger can time or hit what another person sent, or if the
    measurement would not have shown it. `memos erasure verify` checks the signed result.
    """
    if profiling is not None:
        profile(config, url, key, profiling, as_json)
        return
    if probing:
        probe(config, url, (key, other_key), (probes, words), receipt, as_json)
        return
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
    redaction = check_redaction(config)
    yield redaction
    # The other checks read files below home, with a system that redacts.
    if "broken" not in (home.status, redaction.status):
        system = build(config)
        try:
            yield from check_memory(system)
        finally:
            system.close()
    yield check_front_end(config)
    yield check_reader(config)
    yield from check_oidc(config)
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
