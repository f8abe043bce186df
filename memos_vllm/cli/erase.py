"""`memos erase PERSON`, and `memos erasure`: verify receipts, show keys."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memos_vllm import strict_json
from memos_vllm.cli.terminal import MemosGroup, print_json, say
from memos_vllm.cli.vault import ConfigOption, TenantOption, administrator, opened
from memos_vllm.errors import BadRequest, Conflict
from memos_vllm.governance import receipts
from memos_vllm.governance.principal import LOCAL_TENANT

if TYPE_CHECKING:
    from memos_vllm.erasure.eraser import Eraser
    from memos_vllm.vault.erasures import Erasure

app = typer.Typer(cls=MemosGroup, no_args_is_help=True, help="Receipts of erasures.")

_SERVER_SECONDS = 600.0


def erase(
    person: Annotated[str, typer.Argument(metavar="PERSON", help="Person of the tenant.")],
    tenant: TenantOption = LOCAL_TENANT,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    keep_frozen: Annotated[
        bool, typer.Option("--keep-frozen", help="Erase all else where cubes are frozen.")
    ] = False,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", help="File for the receipt; default: stdout.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Erase a person everywhere, and print the signed receipt. It can be repeated after a kill."""
    from memos_vllm.erasure.eraser import Eraser

    if receipt is not None and receipt.exists():
        raise Conflict(f"{receipt} exists already: name another file")
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Erase all memory of {person!r} in {tenant!r}, for good?", abort=True)
    with opened(config) as system:
        eraser = Eraser(system)
        caller = administrator(tenant)
        found = eraser.request(caller, person, keep_frozen)
        if not (system.index.claim() and eraser.run_now(found.id)):
            say("a running server has the job: waiting for it")
        found = _awaited(eraser, caller, found.id)
        key = eraser.subject_key(found)
    text = json.dumps(found.receipt, ensure_ascii=False, indent=2)
    if receipt is not None:
        receipt.write_text(text + "\n", encoding="utf-8")
    else:
        typer.echo(text)
    say(f"erasure {found.id}: the name with the key {key} gives the receipt's `subject`")
    if found.receipt is not None and not found.receipt["complete"]:
        say("it is not complete: see `held` and `stores` in the receipt")
        raise typer.Exit(1)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="RECEIPT", help="The receipt, JSON.")],
    key: Annotated[
        str | None, typer.Option("--key", help="Public key, 64 hex digits, or a file with it.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", help="SHA-256 of the public key that the receipt has."),
    ] = None,
    person: Annotated[
        str | None, typer.Option("--person", help="Check that it is this person's receipt.")
    ] = None,
    subject_key: Annotated[
        str | None, typer.Option("--subject-key", help="Key of the subject, with --person.")
    ] = None,
) -> None:
    """Check a receipt offline: with the public key, or with its pinned fingerprint.

    It is the receipt of an erasure, or the signed result of `memos doctor --probe`.
    """
    if key is None and fingerprint is None:
        raise BadRequest("give --key or --fingerprint: `memos erasure key` shows both")
    if (person is None) != (subject_key is None):
        raise BadRequest("give --person and --subject-key together")
    named = (person, subject_key) if person is not None and subject_key is not None else None
    content: Any = _read(file)
    if not isinstance(content, dict):
        raise BadRequest(f"{file}: no receipt")
    public = _public(key) if key is not None else None
    is_probe = content.get("format") == receipts.PROBE_FORMAT
    if is_probe:
        found = receipts.probe_problems(content, public=public, pinned=fingerprint)
    else:
        found = receipts.problems(content, public=public, pinned=fingerprint, person=named)
    for problem in found:
        typer.echo(problem)
    if found:
        raise typer.Exit(1)
    if is_probe:
        attacks = ", ".join(each["attack"] for each in content["findings"])
        typer.echo(f"valid: no leak of {content['url']} at {content['probed']}: {attacks}")
    else:
        typer.echo(f"valid: erasure {content['erasure']} of tenant {content['tenant']} is complete")


@app.command("key")
def show_key(config: ConfigOption = None) -> None:
    """Print the public keys that sign receipts, oldest first, with their fingerprints."""
    with opened(config) as system:
        publics = system.database.audit_keys.publics()
        if not publics:
            current = system.database.audit_keys.current
            publics = {current.id: current.public}
    print_json(
        [
            {"key_id": name, "public_key": public, "fingerprint": receipts.fingerprint(public)}
            for name, public in publics.items()
        ]
    )


def _awaited(eraser: Eraser, caller: Any, erasure: str) -> Erasure:
    deadline = time.monotonic() + _SERVER_SECONDS
    while (found := eraser.status(caller, erasure)).receipt is None:
        if time.monotonic() > deadline:
            raise Conflict(
                f"the erasure {erasure} is not done: it waits in the step {found.progress.get('step')}; "
                "`memos jobs failed` shows jobs that were set aside"
            )
        time.sleep(0.5)
    return found


def _read(file: Path) -> Any:
    try:
        return strict_json.parse(file.read_bytes(), what=str(file))
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from error


def _public(key: str) -> str:
    path = Path(key)
    try:
        text = path.read_text("ascii").strip() if path.is_file() else key.strip()
        receipts.fingerprint(text)
    except (OSError, ValueError) as error:
        raise BadRequest("--key is 64 hex digits, or a file with them") from error
    return text
