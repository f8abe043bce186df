"""`memos compact`: a job of a running server that makes KV of a cube in fewer places than it has tokens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memos_vllm.cli.terminal import progress_bar, say
from memos_vllm.cli.training import DetachOption, exam_of, show_job
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    PersonOption,
    TenantOption,
    administrator,
    opened,
)
from memos_vllm.governance.principal import LOCAL_TENANT
from memos_vllm.parametric.training.order import Progress
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Compact
from memos_vllm.vault.transform_records import Transform
from memos_vllm.vault.transform_rows import ENDED, JobState

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_LOOK_SECONDS = 0.5
_HINT_SECONDS = 15.0


def compact(
    cube: Annotated[str, typer.Argument(metavar="CUBE", help="A cube of text, by id or name.")],
    method: Annotated[
        Literal["match", "distil"],
        typer.Option("--method", help="match: without gradients, seconds; distil: minutes."),
    ] = "match",
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio", help="Tokens of the text for each place; default: match 2, distil 8."
        ),
    ] = None,
    places: Annotated[int | None, typer.Option("--places", help="In place of --ratio.")] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            help="Largest KL at which it is stored, nats; default: match 0.2, distil 0.5.",
        ),
    ] = None,
    exam: Annotated[
        Path | None,
        typer.Option("--exam", metavar="FILE", help="Exam of the gate, as for `memos train`."),
    ] = None,
    detach: DetachOption = False,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a compact of a cube, for requests with `memory.kv: compact`, in the running server.

    Ctrl-C cancels the job.
    """
    request = Compact(method=method, ratio=ratio, places=places, max_kl=max_kl, exam=exam_of(exam))
    with opened(config) as system:
        job = submit.compact(system, administrator(tenant, person), cube, request)
        if not detach:
            job = _followed(system, job)
    show_job(job, as_json)
    if not detach and job.state is not JobState.DONE:
        raise typer.Exit(1)


def _followed(system: MemorySystem, job: Transform) -> Transform:
    """Show the progress of a job until a server has ended it; Ctrl-C cancels it."""
    started, has_hinted = time.monotonic(), False
    with progress_bar("waiting") as bar:
        try:
            while job.state not in ENDED:
                progress = Progress.model_validate(job.progress)
                bar.update(
                    bar.task_ids[0],
                    description=progress.phase,
                    completed=progress.done,
                    total=progress.total or None,
                )
                waited = time.monotonic() - started
                if job.state is JobState.QUEUED and waited > _HINT_SECONDS and not has_hinted:
                    has_hinted = True
                    say("no server has taken the job yet: a running one with a KV tier makes it")
                time.sleep(_LOOK_SECONDS)
                job = system.transforms.get(job.principal, job.id)
        except KeyboardInterrupt:
            system.transforms.cancel(job.principal, job.id)
            say(f"cancelled {job.id}")
            raise typer.Exit(1) from None
    return job
