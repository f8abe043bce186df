"""`memos import` and `memos export`: memory from other systems, and between vaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memos_vllm.cli.terminal import MemosGroup, progress_bar, say
from memos_vllm.cli.vault import (
    ConfigOption,
    TenantOption,
    administrator,
    can_index,
    opened,
    say_index_pending,
)
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import LOCAL_TENANT, check_person
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.locomo import locomo_source
from memos_vllm.importers.openai_chat import openai_chat_source
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.skipped import Skipped
from memos_vllm.importers.source import ImportSource

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class ImportGroup(MemosGroup):
    """`memos import FILE`: a first word that is no command is a file, whose kind its content tells."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["file", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=ImportGroup,
    no_args_is_help=True,
    help="Import memory from a file: `memos import FILE` tells its kind by its content. An interrupted "
    "import resumes where it stopped.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]
AgainOption = Annotated[bool, typer.Option("--again", help="Import a finished file again.")]


@app.command()
def locomo(
    file: FileArgument,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", metavar="N|ID", help="Default: all conversations."),
    ] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None, typer.Option("--person", help="Owner of the memory; default: both speakers.")
    ] = None,
    again: AgainOption = False,
    config: ConfigOption = None,
) -> None:
    """Import conversations of LoCoMo (locomo10.json) as memory of their speakers."""
    person = _canonical(person)
    options = {"format": "locomo", "conversation": conversation, "person": person}
    run(config, tenant, file, options, again, lambda _: locomo_source(file, conversation, person))


@app.command()
def jsonl(
    file: FileArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None, typer.Option("--person", help="Owner of lines without a person.")
    ] = None,
    again: AgainOption = False,
    config: ConfigOption = None,
) -> None:
    """Import JSON lines: text, and person, speaker, time, session, source, tags, type."""
    person = _canonical(person)
    options = {"format": "jsonl", "person": person}

    def read(system: MemorySystem) -> ImportSource:
        return jsonl_source(file, person, system.config.remember.items_per_cube)

    run(config, tenant, file, options, again, read)


@app.command("openai-chat")
def openai_chat(
    file: FileArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[str | None, typer.Option("--person", help="Owner of the chats.")] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Share them with the whole tenant.")
    ] = False,
    again: AgainOption = False,
    config: ConfigOption = None,
) -> None:
    """Import OpenAI's data export (conversations.json), or logs of chat completions (list or lines)."""
    person = _canonical(person)
    if person and shared:
        raise BadRequest("give --person or --shared, not both")
    options = {"format": "openai-chat", "person": person, "shared": shared}

    def read(system: MemorySystem) -> ImportSource:
        source = openai_chat_source(file, person, system.config.remember.items_per_cube)
        if not shared and any(cube.new.meta.person is None for cube in source.cubes()):
            raise BadRequest(
                "the file does not name the person of these chats: give --person NAME, or --shared if "
                "the whole tenant may read them"
            )
        return source

    run(config, tenant, file, options, again, read)


@app.command()
def document(
    file: FileArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[str | None, typer.Option("--person", help="Owner of the document.")] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Share it with the whole tenant.")
    ] = False,
    again: AgainOption = False,
    config: ConfigOption = None,
) -> None:
    """Import Markdown, HTML, PDF or plain text, as passages with their headings."""
    person = _canonical(person)
    if bool(person) == shared:
        raise BadRequest(
            "the document needs an owner: give --person NAME, or --shared for the whole tenant"
        )
    options = {"format": "document", "person": person, "shared": shared}

    def read(system: MemorySystem) -> ImportSource:
        from memos_vllm.importers.documents import document_source

        limits = system.config.limits
        return document_source(
            file, person, limits.items_per_cube, limits.document_bytes, system.documents.read
        )

    run(config, tenant, file, options, again, read)


@app.command()
def cubes(
    file: FileArgument,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None, typer.Option("--person", help="New owner of all cubes; default: as exported.")
    ] = None,
    again: AgainOption = False,
    config: ConfigOption = None,
) -> None:
    """Import a bundle of `memos export FILE`; the cubes get new ids."""
    from memos_vllm.importers.bundle import bundle_source

    person = _canonical(person)
    options = {"format": "cubes", "person": person}
    run(config, tenant, file, options, again, lambda _: bundle_source(file, person))


def run(
    config: Path | None,
    tenant: str,
    file: Path,
    options: dict[str, Any],
    again: bool,
    read: Callable[[MemorySystem], ImportSource],
) -> Skipped | None:
    """Import a file; returns what is left out, or None where it is imported already."""
    from memos_vllm.importers.write import run_import
    from memos_vllm.learning.imported import ImportedTurns

    content = content_sha256(file)
    with opened(config) as system:
        identity = {**options, "tenant": tenant, "vault": system.config.database_url}
        folder = system.config.root / "imports"
        position = ImportPosition.load(folder, file, content, identity)
        if position.finished and not again:
            say(f"{file} is imported already ({_counts(position)}); use --again to import it again")
            return None
        if again:
            position.restart()
        source = read(system)
        for note in source.notes:
            say(note)
        if position.done:
            say(f"resuming at {position.done} of {source.total} cubes")
        indexed_here = can_index(system)
        with progress_bar("importing") as bar:
            task = bar.task_ids[0]
            bar.update(task, completed=position.done, total=source.total)
            run_import(
                system,
                administrator(tenant),
                source,
                position,
                lambda done: bar.update(task, completed=done),
                ImportedTurns(system, f"import:{source.format}"),
            )
        say(f"{file}: {_counts(position)}")
        say_index_pending(system, indexed_here)
    return source.skipped


def _counts(position: ImportPosition) -> str:
    return (
        f"{position.created} cubes created, {position.extended} extended, "
        f"{position.skipped} already stored"
    )


def _canonical(person: str | None) -> str | None:
    return None if person is None else check_person(person)
