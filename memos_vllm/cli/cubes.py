"""`memos cubes`: the vault's cubes, read and changed directly, also while a server runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    say_what_waits,
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
from memos_vllm.governance.principal import LOCAL_TENANT
from memos_vllm.transforms import submit
from memos_vllm.vault.views import CubeFilter

app = typer.Typer(cls=MemosGroup, no_args_is_help=True, help="What is remembered, cube by cube.")

RefArgument = Annotated[
    str, typer.Argument(metavar="CUBE", help="Id, or name (a person's cube: with --person).")
]


@app.command("list")
def list_cubes(
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[str | None, typer.Option("--person", help="This person's only.")] = None,
    tag: Annotated[str | None, typer.Option("--tag")] = None,
    state: Annotated[State | None, typer.Option("--state")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The tenant's cubes, newest first."""
    where = CubeFilter(person=person, tag=tag, state=state)
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
        say(f"there are more than {limit}: --limit shows them")


@app.command()
def show(
    cube: RefArgument,
    version: Annotated[
        str | None, typer.Option("--version", help="Default: the current one.")
    ] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """A cube's header and what it holds."""
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
    text: Annotated[str | None, typer.Option("--text", help="What to remember.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Its text; `-` for stdin.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            "--adapter", metavar="FOLDER", help="A LoRA that PEFT saved, instead of text."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="May be given again.")] = None,
    placement: Annotated[
        Placement, typer.Option("--placement", help="stable: whole, in every prompt.")
    ] = Placement.RETRIEVED,
    priority: Annotated[int, typer.Option("--priority")] = 0,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a text, or an adapter: for a person, or, without --person, for the whole tenant."""
    payload = _given(text, file, adapter)
    try:
        meta = NewMeta(
            name=name,
            tags=tag or [],
            placement=placement,
            priority=priority,
            provenance=Provenance(origin="cli"),
        )
        new = NewCube(meta=meta, payload=payload)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRequest(f"`{where}`: {problem['msg']}") from error
    with opened(config) as system:
        indexed_here = can_index(system)
        made = system.create(administrator(tenant, person), [new])[0]
        say_what_waits(system, indexed_here)
    _print_made(made, "created", as_json)


@app.command()
def delete(
    cube: RefArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="With all that was made from it.")
    ] = False,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
) -> None:
    """Forget a cube: all of its versions, its vectors and its files."""
    with opened(config) as system:
        principal = administrator(tenant, person)
        header = system.vault.get(principal, cube).meta
        if not yes and sys.stdin.isatty():
            typer.confirm(
                f"Delete {header.name or header.id} and its {header.sequence} versions?", abort=True
            )
        deletion, _ = system.delete(principal, header.id, cascade=cascade)
        gone = [orphan.cube for orphan in deletion.gone]
        say(f"deleted {', '.join([deletion.cube, *gone])}")
        if deletion.stale and not cascade:
            say(f"made from it and still there: {', '.join(deletion.stale)}")
        for orphan in deletion.gone:
            if (job := submit.again(system, principal, orphan)) is not None:
                say(f"{orphan.name or orphan.cube} is to be made again from what is left: {job.id}")
        say_what_waits(system, system.index.claim())


@app.command()
def history(
    cube: RefArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """All versions of a cube, newest first."""
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
    version: Annotated[str, typer.Argument(help="As `memos cubes history` shows it.")],
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new version that holds what an older one held."""
    with opened(config) as system:
        indexed_here = can_index(system)
        made = system.rollback(administrator(tenant, person), cube, version)
        say_what_waits(system, indexed_here)
    _print_made(made, f"back to {version}:", as_json)


@app.command()
def merge(
    cube: RefArgument,
    into: Annotated[str, typer.Argument(help="Cube of the same owner that holds both then.")],
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fold a cube's items into another one; it becomes `merged` and is searched no more."""
    from memos_vllm.learning import lifecycle

    with opened(config) as system:
        indexed_here = can_index(system)
        made = lifecycle.merge(system, administrator(tenant, person), cube, into)
        say_what_waits(system, indexed_here)
    _print_made(made, f"{cube} is merged into", as_json)


@app.command()
def diff(
    cube: RefArgument,
    older: Annotated[str, typer.Argument(help="A version.")],
    newer: Annotated[str | None, typer.Argument(help="Default: the current version.")] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Items that the newer version has and the older has not, and the reverse."""
    with opened(config) as system:
        found = system.vault.diff(administrator(tenant, person), cube, older, newer)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [("-", _line(item)) for item in found.removed]
    rows += [("+", _line(item)) for item in found.added]
    print_table(
        ("", f"{found.older} → {found.newer}"), rows, "the two versions hold the same items"
    )


def _given(text: str | None, file: Path | None, adapter: Path | None) -> Payload:
    if adapter is None:
        return ExplicitPayload(content=[Item(text=_given_text(text, file))])
    if text is not None or file is not None:
        raise BadRequest("give --adapter, or a text; a cube is one of them")
    from memos_vllm.parametric.adapter.packed import upload_of_folder  # torch takes a while

    return ParametricPayload(content=upload_of_folder(adapter))


def _given_text(text: str | None, file: Path | None) -> str:
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
        raise BadRequest("there is no text to remember")
    return text


def _print_made(cube: MemCube, what: str, as_json: bool) -> None:
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
