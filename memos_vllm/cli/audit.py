"""`memos audit`: verify, export and prove the audit log; its keys."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import ConfigOption, JsonOption, TenantOption, administrator, opened
from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import to_us
from memos_vllm.errors import BadRequest, Conflict
from memos_vllm.governance import audit_offline
from memos_vllm.governance.audit_keys import audit_keys_of
from memos_vllm.governance.checkpoints import read_copy
from memos_vllm.governance.principal import LOCAL_TENANT

app = typer.Typer(
    cls=MemosGroup, no_args_is_help=True, help="The audit log: verify, export, prove; its keys."
)

PublicOption = Annotated[
    str | None,
    typer.Option(
        "--public-key",
        metavar="HEX|FILE",
        help="Key, or file with keys, that `memos audit key` prints; default: this installation's.",
    ),
]
CheckpointsOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints",
        metavar="FILE|FOLDER",
        help="A copy of the checkpoints from outside; default: this installation's folder.",
    ),
]


@app.command()
def verify(
    tenant: TenantOption = LOCAL_TENANT,
    from_checkpoint: Annotated[
        bool, typer.Option("--from-checkpoint", help="Only records behind the newest checkpoint.")
    ] = False,
    checkpoints: CheckpointsOption = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", metavar="FILE", help="Check a proof, offline.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Check an export, offline.")
    ] = None,
    public_key: PublicOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the log in the database, a proof, or an export; exit code 1 if something is wrong.

    With `--proof` and `--export` no database is opened; with `--public-key`, no secret is read either.
    """
    if proof is not None and export is not None:
        raise BadRequest("give --proof or --export, not both")
    if proof is not None:
        problems = audit_offline.check_proof(_read_json(proof), _publics(public_key, config))
    elif export is not None:
        problems = _check_export(export, checkpoints, public_key, config)
    else:
        with opened(config) as system:
            copy = read_copy(checkpoints, tenant) if checkpoints is not None else None
            if copy is not None and not copy:
                raise BadRequest(f"{checkpoints} has no checkpoint of tenant {tenant}")
            problems = system.audit.verify(
                administrator(tenant), checkpoints=copy, from_checkpoint=from_checkpoint
            )
    if as_json:
        print_json({"intact": not problems, "problems": problems})
    else:
        for problem in problems:
            typer.echo(problem)
        say("the audit log is intact" if not problems else f"{len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; `-`: stdout.")],
    tenant: TenantOption = LOCAL_TENANT,
    action: Annotated[
        str | None, typer.Option("--action", help="`memory.read`, or `cube.*`.")
    ] = None,
    person: Annotated[
        str | None, typer.Option("--person", help="A name or pseudonym: acted, or was the owner.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Id of the acting key.")] = None,
    since: Annotated[datetime | None, typer.Option("--since", help="UTC, included.")] = None,
    until: Annotated[datetime | None, typer.Option("--until", help="UTC, excluded.")] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Also the names of people, not their pseudonyms alone.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Export records as JSON lines, with what `memos audit verify --export` needs. It is recorded."""
    from memos_vllm.vault.audit_export import AuditExport, AuditFilter

    chosen = AuditFilter(
        action, person, key, to_us(since) if since else None, to_us(until) if until else None
    )
    to_stdout = str(file) == "-"
    if file.exists() and not force and not to_stdout:
        raise Conflict(f"{file} exists already; --force replaces it")
    with opened(config) as system:
        made = AuditExport(system.database, system.audit)
        lines = made.lines(administrator(tenant), chosen, with_names=names)
        if to_stdout:
            for line in lines:
                typer.echo(line, nl=False)
            return
        count = _write(file, lines)
    say(f"{count - 2} records of tenant {tenant} in {file}")


@app.command()
def prove(
    seq: Annotated[
        int | None, typer.Argument(metavar="[SEQ]", help="`seq` of a record.", min=1)
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(
            "--from", help="Size of an older checkpoint: prove that the log continues it."
        ),
    ] = None,
    second: Annotated[
        int | None, typer.Option("--to", help="Size of a newer checkpoint; default: one of now.")
    ] = None,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Print a proof as JSON: of a record (RFC 6962 inclusion), or of growth alone (consistency)."""
    from memos_vllm.vault.audit_export import AuditExport

    if (seq is None) == (first is None):
        raise BadRequest("give the `seq` of a record, or --from SIZE of a checkpoint")
    with opened(config) as system:
        made = AuditExport(system.database, system.audit)
        who = administrator(tenant)
        if seq is not None:
            print_json(made.inclusion(who, seq))
        else:
            assert first is not None
            print_json(made.consistency(who, first, second))


@app.command()
def key(
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Add a new key; the older ones keep verifying.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the public keys, newest last: give them to auditors."""
    keys = audit_keys_of(load_config(config))
    if rotate:
        added = keys.rotate()
        say(f"new key {added}: running servers sign with it within a checkpoint's interval")
    current = keys.current.id
    publics = keys.publics()
    if as_json:
        print_json({"current": current, "public_keys": publics})
        return
    rows = [(each, public, each == current) for each, public in publics.items()]
    print_table(("id", "public key (Ed25519)", "signs"), rows, "there is no key")


def _check_export(
    file: Path, checkpoints: Path | None, public_key: str | None, config: Path | None
) -> list[str]:
    publics = _publics(public_key, config)
    keys = audit_keys_of(load_config(config)) if public_key is None else None
    try:
        with file.open("rb") as lines:
            tenant = _tenant_of(file)
            outside = read_copy(checkpoints, tenant) if checkpoints is not None else []
            return audit_offline.check_export(lines, publics, keys=keys, checkpoints=outside)
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from error


def _tenant_of(file: Path) -> str:
    with file.open("rb") as lines:
        try:
            return str(json.loads(lines.readline())["tenant"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest(f"{file} is no export of an audit log") from error


def _publics(public_key: str | None, config: Path | None) -> dict[str, str]:
    if public_key is None:
        loaded = load_config(config)
        if loaded.governance.secrets.audit is None and not loaded.audit_key_path.exists():
            raise BadRequest("this installation has no audit keys: give --public-key")
        return audit_keys_of(loaded).publics()
    path = Path(public_key)
    if len(public_key) < 4096 and path.is_file():
        public_key = path.read_text("utf-8", errors="replace")
    return audit_offline.public_keys(public_key)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{file} is not JSON: {error}") from error


def _write(file: Path, lines: Any) -> int:
    """Write a file that its owner alone reads, whole or not at all; returns its lines."""
    draft, count = file.with_name(f".{file.name}.{os.getpid()}.new"), 0
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            for line in lines:
                out.write(line)
                count += 1
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        raise BadRequest(f"cannot write {file}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return count
