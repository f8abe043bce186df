"""`memos train`, `memos decode`, `memos jobs`: training jobs, with or without a running server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, progress_bar, say
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    PersonOption,
    TenantOption,
    administrator,
    opened,
)
from memos_vllm.cube.model import Placement
from memos_vllm.errors import BadRequest, Conflict, NotFound
from memos_vllm.governance.principal import LOCAL_TENANT
from memos_vllm.parametric.training.order import Progress, Question, Recipe
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Decode, Distill
from memos_vllm.vault.set_aside import SetAside
from memos_vllm.vault.transform_records import Transform
from memos_vllm.vault.transform_rows import COMPACT, JobState

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

app = typer.Typer(
    cls=MemosGroup, no_args_is_help=True, help="Jobs that derive one kind of memory from another."
)

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Base model; default: `training.model`, else `serve.model`."),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Queue the job for a running server and print it.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB")]


def train(
    cubes: Annotated[
        list[str], typer.Argument(metavar="CUBE...", help="Cubes of text, by id or name.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the adapter's cube.")] = None,
    into: Annotated[
        str | None,
        typer.Option("--into", help="Adapter that gets a new version, instead of a new cube."),
    ] = None,
    placement: Annotated[
        Placement, typer.Option("--placement", help="stable: attached to every request.")
    ] = Placement.RETRIEVED,
    exam: Annotated[
        Path | None,
        typer.Option(
            "--exam",
            metavar="FILE",
            help='Exam of the gate: JSON, [{"question": …, "answer": …}, …].',
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Recipe parameter, e.g. rank=32; repeatable."
        ),
    ] = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", min=0.01)] = None,
    detach: DetachOption = False,
    model: ModelOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter on cubes of text; it becomes active if it passes its gate.

    Ctrl-C stops the job; `memos jobs run` resumes it from its last checkpoint.
    """
    request = Distill(
        also=cubes[1:],
        name=name,
        into=into,
        placement=placement,
        exam=exam_of(exam),
        recipe=_recipe(recipe or []),
        max_seconds=max_minutes * 60 if max_minutes else None,
    )
    with opened(config) as system:
        job = submit.distill(system, administrator(tenant, person), cubes[0], request)
        if detach:
            show_job(job, as_json)
        else:
            _run(system, job.id, model, as_json)


def decode(
    cube: Annotated[str, typer.Argument(metavar="CUBE", help="An adapter, by id or name.")],
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="Topic to ask about; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the cube of text.")] = None,
    detach: DetachOption = False,
    model: ModelOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decode an adapter: statements that its answers agree on become a cube, for review."""
    request = Decode(topics=topic or [], name=name)
    with opened(config) as system:
        job = submit.decode(system, administrator(tenant, person), cube, request)
        if detach:
            show_job(job, as_json)
        else:
            _run(system, job.id, model, as_json)


@app.command("list")
def list_jobs(
    tenant: TenantOption = LOCAL_TENANT,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tenant's jobs, newest first."""
    with opened(config) as system:
        jobs = system.transforms.page(administrator(tenant), limit)
    if as_json:
        print_json([_as_json(job) for job in jobs])
        return
    rows = [(j.id, j.kind, j.state, _phase(j), j.made, j.created) for j in jobs]
    columns = ("id", "kind", "state", "progress", "made", "created (UTC)")
    print_table(columns, rows, f"tenant {tenant} has no jobs")


@app.command()
def failed(
    retry: Annotated[bool, typer.Option("--retry", help="Queue them again.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List background jobs of all tenants that were set aside after their last attempt."""
    with opened(config) as system:
        jobs = system.jobs.failed()
        queued = system.jobs.retry_failed() if retry else 0
    if as_json:
        shown = ("id", "name", "subject", "error")
        print_json([{name: getattr(job, name) for name in shown} for job in jobs])
    else:
        rows = [(job.id, job.name, job.subject, job.error) for job in jobs]
        print_table(("id", "job", "subject", "last error"), rows, "no job was set aside")
    if queued:
        say(f"queued {queued} jobs again")


@app.command()
def discard(job: JobArgument, config: ConfigOption = None) -> None:
    """Delete a job that was set aside, with the turn that it would have made memory.

    A job that deletes what was forgotten or erased can be retried only.
    """
    with opened(config) as system:
        failed = SetAside(system.database)
        tenant = failed.tenant_of(job)
        if tenant is None:
            raise NotFound(f"no job {job!r} of a tenant was set aside")
        found = failed.discard(administrator(tenant), job)
    say(f"discarded {found.kind} {job} of tenant {tenant}")


@app.command()
def show(
    job: JobArgument, tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None
) -> None:
    """Show a job as JSON."""
    with opened(config) as system:
        print_json(_as_json(system.transforms.get(administrator(tenant), job)))


@app.command()
def cancel(
    job: JobArgument, tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None
) -> None:
    """Cancel a job permanently; no result is stored."""
    with opened(config) as system:
        system.transforms.cancel(administrator(tenant), job)
    say(f"cancelled {job}")


@app.command()
def run(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Default: the oldest queued job.")
    ] = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a queued job in this process: one that was detached, or stopped before its end."""
    with opened(config) as system:
        _run(system, job, model, as_json)


def _run(system: MemorySystem, job: str | None, model: str | None, as_json: bool) -> None:
    from memos_vllm.transforms.runner import JobRunner
    from memos_vllm.transforms.worker import base_model

    base = base_model(system.config, model)
    with progress_bar("waiting") as bar:

        def show_progress(progress: Progress) -> None:
            bar.update(
                bar.task_ids[0],
                description=progress.phase,
                completed=progress.done,
                total=progress.total or None,
            )

        runner = JobRunner(system, base, on_progress=show_progress)

        def stop(_signal: int, _frame: FrameType | None) -> None:
            runner.end()

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            claimed = runner.claim(job)
            if claimed is None:
                raise Conflict(
                    "no such job is queued: `memos jobs list` shows the state of each job"
                )
            if claimed.kind == COMPACT:
                system.transforms.release(claimed.id)
                raise Conflict(
                    f"{claimed.id} makes a compact, which needs an engine: a running server with a KV tier does it"
                )
            runner.do(claimed)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    ended = system.transforms.get(claimed.principal, claimed.id)
    show_job(ended, as_json)
    if ended.state is JobState.QUEUED:
        say(f"stopped; resume with `memos jobs run {ended.id}`")
    if ended.state is not JobState.DONE:
        raise typer.Exit(1)


def exam_of(file: Path | None) -> list[Question]:
    """Read the exam's questions. Raises BadRequest."""
    if file is None:
        return []
    try:
        return TypeAdapter(list[Question]).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadRequest(f"{file} is not a list of questions: {error}") from error


def _recipe(given: list[str]) -> Recipe:
    """Parse `--set` options. Raises BadRequest, with the recipe's parameters."""
    values: dict[str, Any] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator:
            raise BadRequest(f"--set takes NAME=VALUE, not {each!r}")
        values[name] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadRequest(
            f"--set {problem['loc'][0]}: {problem['msg']}; parameters: "
            f"{', '.join(Recipe.model_fields)}"
        ) from error


def show_job(job: Transform, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(job))
        return
    rows: list[tuple[str, object]] = [("job", job.id), ("state", job.state), ("made", job.made)]
    rows += [(name, _cell(value)) for name, value in (job.report or {}).items() if value]
    print_table(("", ""), rows, "")


def _as_json(job: Transform) -> dict[str, Any]:
    from memos_vllm.api.transforms import view

    return view(job).model_dump(mode="json")


def _phase(job: Transform) -> str:
    progress = Progress.model_validate(job.progress)
    return f"{progress.phase} {progress.done}/{progress.total}" if progress.total else ""


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
