"""`memos export` and `memos import FILE`: a whole person, or the file of another system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memos_vllm.cli.terminal import progress_bar, say
from memos_vllm.cli.transfer import AgainOption, FileArgument, app, run
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
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.skipped import Skipped

if TYPE_CHECKING:
    from memos_vllm.importers.person.restore import Outcome
    from memos_vllm.importers.source import ImportSource
    from memos_vllm.system import MemorySystem

ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Write what is left out, as JSON."),
]


def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
    ] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None,
        typer.Option("--person", help="This person, whole: with history, shares and holds."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    config: ConfigOption = None,
) -> None:
    """Export a whole person, or the tenant's cubes in their current versions, for `memos import`."""
    if (file is None) == (output is None):
        raise BadRequest("name one file to write: memos export --person ID -o FILE")
    path = file or output
    assert path is not None
    with opened(config) as system, progress_bar("exporting") as bar:

        def progress(done: int, total: int) -> None:
            bar.update(bar.task_ids[0], completed=done, total=total)

        if person is not None:
            from memos_vllm.importers.person.export import export_person

            who = administrator(tenant, check_person(person))
            made = export_person(system, who, path, replace=force, progress=progress)
            say(f"{made.cubes} cubes of {who.person} (tenant {tenant}) in {path}")
            _say_skipped(made.skipped)
            return
        from memos_vllm.importers.bundle import export_bundle

        count = export_bundle(system, administrator(tenant), path, replace=force, progress=progress)
    say(f"{count} cubes of tenant {tenant} in {path}")


@app.command("file")
def import_file(
    file: FileArgument,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="KIND",
            help="memos-person, memos-cubes, chatgpt, claude, mem0, memos, openai-chat, jsonl, locomo; "
            "default: by the content.",
        ),
    ] = "auto",
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[
        str | None, typer.Option("--person", help="Owner; default: as the file says.")
    ] = None,
    again: AgainOption = False,
    report: ReportOption = None,
    config: ConfigOption = None,
) -> None:
    """Import an archive of `memos export`, an export of ChatGPT or Claude, or a dump of Mem0 or MemOS."""
    from memos_vllm.importers.any_file import kind_of, source_of
    from memos_vllm.importers.person.export import FORMAT as PERSON

    person = None if person is None else check_person(person)
    kind = kind_of(file, format_name)
    options = {"format": kind, "person": person}
    if kind == PERSON:
        skipped = _import_person(config, tenant, file, options, again)
    else:

        def read(system: MemorySystem) -> ImportSource:
            return source_of(system, file, kind, person, tenant)

        skipped = run(config, tenant, file, options, again, read)
    if skipped is not None:
        _say_skipped(skipped)
        if report is not None:
            report.write_text(json.dumps(skipped.tree(), ensure_ascii=False, indent=2) + "\n")


def _import_person(
    config: Path | None, tenant: str, file: Path, options: dict[str, Any], again: bool
) -> Skipped | None:
    """What is left out; None: the archive is imported already."""
    from memos_vllm.importers.person.restore import PersonImport

    content = content_sha256(file)
    with opened(config) as system:
        identity = {**options, "tenant": tenant, "vault": system.config.database_url}
        folder = system.config.root / "imports"
        position = ImportPosition.load(folder, file, content, identity)
        if position.finished and not again:
            say(f"{file} is imported already; use --again to import what has been deleted since")
            return None
        importing = PersonImport(system, administrator(tenant), file, options["person"])
        indexed_here = can_index(system)
        with progress_bar("importing") as bar:
            task = bar.task_ids[0]
            bar.update(task, total=importing.archive.total)
            outcome = importing.run(lambda done: bar.update(task, completed=done))
        position.done, position.created = importing.archive.total, outcome.created
        position.finished = True
        position.save()
        _say_outcome(file, importing.person, outcome)
        say_index_pending(system, indexed_here)
    return outcome.skipped


def _say_outcome(file: Path, person: str, outcome: Outcome) -> None:
    say(
        f"{file}: {outcome.created} cubes of {person} created, {outcome.held} already stored, "
        f"{outcome.turns} turns wait to become memory"
    )
    for name, new in outcome.renamed.items():
        say(f"renamed: {name} is {new}: the person has another cube of that name")


def _say_skipped(skipped: Skipped) -> None:
    for group in skipped.groups():
        say(group.line())
