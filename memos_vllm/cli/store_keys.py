"""`memos store keys`: a publisher's own key, and the publishers that a tenant trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import ConfigOption, JsonOption, TenantOption, administrator, opened
from memos_vllm.cube.ids import to_datetime
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import LOCAL_TENANT

app = typer.Typer(cls=MemosGroup, no_args_is_help=True, help="Keys of publishers.")


@app.command()
def new(file: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Make a key to publish with: FILE is private, FILE.pub goes to subscribers."""
    from memos_vllm.memstore.signing import PublisherKey

    try:
        key = PublisherKey.create(file)
    except OSError as error:
        raise BadRequest(f"cannot write {file}: {error.strerror}") from error
    say(f"{file} (keep it secret and offline), {file}.pub")
    say(f"fingerprint {key.public.fingerprint}")


@app.command()
def trust(
    key: Annotated[str, typer.Argument(metavar="FILE.pub|HEX", help="Public key of a publisher.")],
    label: Annotated[str, typer.Option("--label", help="Who it is.")],
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Trust a publisher: its bundles may be installed."""
    from memos_vllm.memstore.store import trust as trusted

    path = Path(key)
    text = path.read_text() if path.is_file() else key
    with opened(config) as system:
        found = trusted(system, administrator(tenant), text, label)
    say(f"{label}: {found.fingerprint}")


@app.command("list")
def list_keys(
    tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the publishers that a tenant trusts."""
    with opened(config) as system:
        found = system.publishers.all(administrator(tenant).tenant)
    if as_json:
        print_json([{"fingerprint": each.fingerprint, "label": each.label} for each in found])
        return
    rows = [[each.label, each.fingerprint, to_datetime(each.created_us).date()] for each in found]
    print_table(["label", "fingerprint", "since"], rows, empty="no publisher is trusted")


@app.command()
def distrust(
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT")],
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Install nothing more of a publisher; what is installed stays."""
    with opened(config) as system:
        system.publishers.distrust(administrator(tenant), fingerprint)
    say(f"{fingerprint} is not trusted any more")
