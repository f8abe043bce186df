"""`memos cubes`: read and change the vault's cubes directly, also while a server runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from memos_vllm.cli.terminal import MemosGroup, moment, print_json, print_table, say, stdout
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    PersonOption,
    TenantOption,
    administrator,
    can_index,
    opened,
    say_index_pending,
)
from memos_vllm.cube.model import (
    ExplicitPayload,
    Item,
    MemCube,
    NewCube,
    NewMeta,
    ParametricPayload,
    Payload,
    Placement,
    Provenance,
    State,
)
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import LOCAL_TENANT, check_person
from memos_vllm.vault.views import CubeFilter

app = typer.Typer(
    cls=MemosGroup,
    no_args_is_help=True,
    help="Cubes of memory: list, show, create, change, delete.",
)

RefArgument = Annotated[
    str, typer.Argument(metavar="CUBE", help="Id, or name (with --person for a person's cube).")
]


@app.command("list")
def list_cubes(
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None, typer.Option("--person", help="Cubes of this person only.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    state: Annotated[State | None, typer.Option("--state")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tenant's cubes, newest first."""
    owner = check_person(person) if person else None
    where = CubeFilter(person=owner, tag=tag, state=state)
    with opened(config) as system:
        headers, more = system.views.page(administrator(tenant), where, None, limit)
    if as_json:
        print_json([header.model_dump(mode="json") for header in headers])
    else:
        rows = [
            (h.id, h.name, h.person or "(shared)", h.state, h.placement, h.sequence, h.updated)
            for h in headers
        ]
        columns = ("id", "name", "person", "state", "placement", "version", "updated (UTC)")
        print_table(columns, rows, f"tenant {tenant} has no such cube")
    if more:
        say(f"more than {limit} cubes: raise --limit to list them")


@app.command()
def show(
    cube: RefArgument,
    version: Annotated[
        str | None, typer.Option("--version", help="Default: the current version.")
    ] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a cube's header and contents."""
    with opened(config) as system:
        found = system.vault.get(administrator(tenant, person), cube, version)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    header = found.meta.model_dump(mode="json", exclude_none=True)
    print_table(("field", "value"), list(header.items()), "")
    stdout().print()
    if isinstance(found.payload, ParametricPayload):
        print_table(("adapter", "value"), list(found.payload.content.items()), "")
    else:
        _print_items(found.items)


@app.command()
def create(
    text: Annotated[str | None, typer.Option("--text", help="Text of the cube.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="File with the text; `-` for stdin."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter", metavar="FOLDER", help="A LoRA adapter saved by PEFT, instead of text."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")] = None,
    placement: Annotated[
        Placement, typer.Option("--placement", help="stable: the whole cube, in every prompt.")
    ] = Placement.RETRIEVED,
    priority: Annotated[int, typer.Option("--priority")] = 0,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a cube of a text or an adapter: for a person, or without --person for the tenant."""
    payload = _payload(text, file, adapter)
    new = _new_cube(payload, name=name, tags=tag or [], placement=placement, priority=priority)
    with opened(config) as system:
        indexed_here = can_index(system)
        made = system.create(administrator(tenant, person), [new])[0]
        say_index_pending(system, indexed_here)
    _print_cube(made, "created", as_json)


@app.command()
def delete(
    cube: RefArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")] = False,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade/--no-cascade", help="Also delete the cubes derived from it (default)."
        ),
    ] = True,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete a cube: all of its versions, vectors and files."""
    with opened(config) as system:
        principal = administrator(tenant, person)
        header = system.vault.get(principal, cube).meta
        if not yes and sys.stdin.isatty():
            typer.confirm(
                f"Delete {header.name or header.id} and its {header.sequence} versions?", abort=True
            )
        deletion, _ = system.delete(principal, header.id, cascade=cascade)
        derived = [orphan.cube for orphan in deletion.gone]
        say(f"deleted {', '.join([deletion.cube, *derived])}")
        if deletion.stale and not cascade:
            say(f"derived from it and still stored: {', '.join(deletion.stale)}")
        for job in deletion.jobs:
            say(f"job {job} trains an adapter again, from its other sources")
        say_index_pending(system, system.index.claim())


@app.command()
def history(
    cube: RefArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all versions of a cube, newest first."""
    with opened(config) as system:
        versions = system.vault.history(administrator(tenant, person), cube)
    if as_json:
        print_json([version.model_dump(mode="json") for version in versions])
        return
    rows = [
        (v.sequence, v.id, v.action, v.author, v.provenance.origin, v.created, v.payload_bytes)
        for v in versions
    ]
    print_table(("#", "version", "action", "author", "origin", "created (UTC)", "bytes"), rows, "")


@app.command()
def rollback(
    cube: RefArgument,
    version: Annotated[str, typer.Argument(help="Version id from `memos cubes history`.")],
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a new version with the contents of an older one."""
    with opened(config) as system:
        indexed_here = can_index(system)
        made = system.rollback(administrator(tenant, person), cube, version)
        say_index_pending(system, indexed_here)
    _print_cube(made, f"rolled back to {version}:", as_json)


@app.command()
def merge(
    cube: RefArgument,
    into: Annotated[str, typer.Argument(help="Cube of the same owner that receives the items.")],
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge a cube's items into another cube; its state becomes `merged`."""
    from memos_vllm.learning import lifecycle

    with opened(config) as system:
        indexed_here = can_index(system)
        made = lifecycle.merge(system, administrator(tenant, person), cube, into)
        say_index_pending(system, indexed_here)
    _print_cube(made, f"{cube} is merged into", as_json)


@app.command()
def diff(
    cube: RefArgument,
    older: Annotated[str, typer.Argument(help="Version id.")],
    newer: Annotated[str | None, typer.Argument(help="Default: the current version.")] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the items added and removed between two versions."""
    with opened(config) as system:
        changes = system.vault.diff(administrator(tenant, person), cube, older, newer)
    if as_json:
        print_json(changes.model_dump(mode="json"))
        return
    rows = [("-", _line(item)) for item in changes.removed]
    rows += [("+", _line(item)) for item in changes.added]
    print_table(
        ("", f"{changes.older} → {changes.newer}"), rows, "the two versions hold the same items"
    )


def _new_cube(payload: Payload, **meta: Any) -> NewCube:
    """Validate the header. Raises BadRequest."""
    try:
        header = NewMeta(provenance=Provenance(origin="cli"), **meta)
        return NewCube(meta=header, payload=payload)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRequest(f"`{where}`: {problem['msg']}") from error


def _payload(text: str | None, file: Path | None, adapter: Path | None) -> Payload:
    if adapter is None:
        return ExplicitPayload(content=[Item(text=_read_text(text, file))])
    if text is not None or file is not None:
        raise BadRequest("give --adapter or a text, not both")
    from memos_vllm.parametric.adapter.packed import upload_of_folder  # imports torch, slow

    return ParametricPayload(content=upload_of_folder(adapter))


def _read_text(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise BadRequest("give the text with --text, or with --file FILE (`-` reads stdin)")
    try:
        if file is not None:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not UTF-8 text: {error.reason}") from error
    if not text or not text.strip():
        raise BadRequest("the text is empty")
    return text


def _print_cube(cube: MemCube, what: str, as_json: bool) -> None:
    if as_json:
        print_json(cube.model_dump(mode="json"))
    else:
        say(f"{what} {cube.meta.name or cube.meta.id}, version {cube.meta.sequence}")
        typer.echo(cube.meta.id)


def _print_items(items: list[Item]) -> None:
    rows = [(item.type, moment(item.time), item.speaker, item.text, item.source) for item in items]
    print_table(("type", "time (UTC)", "speaker", "text", "source"), rows, "the cube is empty")


def _line(item: Item) -> str:
    return f"{item.speaker}: {item.text}" if item.speaker else item.text
