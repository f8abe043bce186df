"""Runner of transforms: start and watch the training process, and store its product as a cube.

An adapter that does not pass its gate is stored, too, with the reasons, in the state `generated`: no
request uses it until a writer of the cube activates it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    MemCube,
    NewCube,
    NewMeta,
    ParametricPayload,
    Payload,
    Provenance,
    State,
)
from memos_vllm.errors import Conflict, MemosError, Unavailable, Unprocessable
from memos_vllm.parametric.adapter.packed import upload_of_folder
from memos_vllm.parametric.training.child import MODULE, Child
from memos_vllm.parametric.training.order import (
    Context,
    Decoding,
    JobFolder,
    Order,
    Progress,
    Report,
    write_json,
)
from memos_vllm.parametric.training.study import precision, study
from memos_vllm.prompt.quoting import Escape
from memos_vllm.system import MemorySystem
from memos_vllm.transforms import compacting, examining
from memos_vllm.transforms.recover import KeptKV, recovered, source_of
from memos_vllm.transforms.requests import Compact, Decode, Distill, Recover
from memos_vllm.transforms.sources import Sources, existing, read_sources
from memos_vllm.transforms.submit import fitted
from memos_vllm.transforms.warm_start import merged_start
from memos_vllm.vault.transform_records import JobIsGone, LeaseLost, Transform
from memos_vllm.vault.transform_rows import COMPACT, DISTILL, EXAMINE, RECOVER, JobState
from memos_vllm.writer.base import Writer

log = logging.getLogger(__name__)
_LOOK_SECONDS, _NOTE_CHARACTERS = 0.5, 2000


class Interrupted(Exception):
    """The job was cancelled, a cube that it reads was deleted, or this process ends."""


class JobRunner:
    """Runs one transform at a time.

    Args:
        model: base model and its revision.
        writer: the served model by its engine; None: the training process writes the lessons.
        on_progress: callback, about twice a second.
        kept: the engine's KV tier; None: no engine with one runs here.
        threads: CPU threads unless `training.threads` is set; None: one for each core.
    """

    def __init__(
        self,
        system: MemorySystem,
        model: tuple[str, str | None],
        writer: tuple[Writer, Escape] | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        kept: KeptKV | None = None,
        threads: int | None = None,
    ) -> None:
        self._system, self._model, self._writer = system, model, writer
        self._on_progress = on_progress
        self._kept, self._threads = kept, threads
        self._ending = threading.Event()

    @property
    def system(self) -> MemorySystem:
        return self._system

    def claim(self, job: str | None = None) -> Transform | None:
        """Claim a job that waits.

        Args:
            job: claim only this one.
        """
        return self._system.transforms.claim(job)

    def end(self) -> None:
        """Interrupt the running job; the next worker continues it."""
        self._ending.set()

    def do(self, job: Transform) -> Report | None:
        """Run a claimed job to its end.

        Returns:
            None: it was interrupted, and nothing is stored.
        Raises:
            Unavailable: a part does not answer; the job is queued again.
        """
        folder = self._folder(job)
        try:
            with self._system.transforms.leased(job.id):
                report = self._work(job, folder)
        except LeaseLost:
            log.warning("job %s was taken by another process", job.id)
            return None  # the folder is that process's
        except (Interrupted, JobIsGone):
            if self._ending.is_set():
                self._system.transforms.release(job.id)
                return None
            report = None
        except Unavailable as error:
            self._system.transforms.retry(job.id, type(error).__name__)
            raise
        except MemosError as error:
            report = Report(outcome="failed", reasons=[error.message])
            self._end(job, JobState.FAILED, report, None)
        except Exception:
            # The top of a worker: an unknown error fails this job, and the worker does the next one.
            log.exception("job %s failed", job.id)
            report = Report(outcome="failed", reasons=["internal error: see the server's log"])
            self._end(job, JobState.FAILED, report, None)
        shutil.rmtree(folder.path, ignore_errors=True)
        return report

    def _work(self, job: Transform, folder: JobFolder) -> Report:
        if job.kind == DISTILL:
            spec = Distill.model_validate(_without(job.request, "cube"))
            refs = [job.request["cube"], *spec.also]
            sources = read_sources(self._system.vault, job.principal, refs)
            merged = merged_start(self._system, job, spec, folder)
            order = self._order(
                spec.max_seconds,
                passages=sources.passages(spec.recipe.passage_tokens),
                exam=spec.exam,
                recipe=fitted(self.system, spec.recipe),
                gate=spec.gate,
                sources={cube.meta.id: cube.meta.version for cube in (*sources.cubes, *merged)},
                context=self._context(job, spec, sources, folder),
            )
            report = self._train(job, folder, order)
            if report.outcome in ("passed", "refused") and folder.adapter.exists():
                return self._store_adapter(job, spec, sources, folder, report)
        elif job.kind == COMPACT:
            report = self._compact(job, folder)
        elif job.kind == EXAMINE:
            return self._examine(job, folder)
        elif job.kind == RECOVER:
            return self._recover(job, Recover.model_validate(_without(job.request, "segment")))
        else:
            report = self._decode(job, folder, Decode.model_validate(_without(job.request, "cube")))
            if report.outcome == "passed":
                return report
        self._end(job, _state_of(report), report, None)
        return report

    def _compact(self, job: Transform, folder: JobFolder) -> Report:
        kept, ref = self._engine_kv(), job.request["cube"]
        spec = Compact.model_validate(_without(job.request, "cube"))
        sources = read_sources(self._system.vault, job.principal, [ref])
        order = self._order(spec.max_seconds, **compacting.order_of(sources, spec))
        report = self._train(job, folder, order)
        if report.outcome == "passed":
            self._look(job, folder.progress())  # raises where it was cancelled meanwhile
            compacting.keep(self._system, job, sources, kept, folder, report)
        return report

    def _examine(self, job: Transform, folder: JobFolder) -> Report:
        order = self._order(None, **examining.order_of(self._system, job, folder))
        report = self._train(job, folder, order)
        examining.end(self._system, job, report, self._system.transforms.still_running(job.id))
        self._end(job, _state_of(report), report, None)
        return report

    def _context(
        self, job: Transform, spec: Distill, sources: Sources, folder: JobFolder
    ) -> Context | None:
        """KV for the teacher. Raises Unprocessable and the errors of `KeptKV.export`."""
        if spec.teacher == "text":
            return None
        if folder.has_order():
            return folder.order().context
        folder.path.mkdir(parents=True, mode=0o700, exist_ok=True)
        return self._engine_kv().export(job.principal, sources.ids, folder.context)

    def _recover(self, job: Transform, spec: Recover) -> Report:
        """Trace stored KV back to its text, and store that as a cube."""
        principal, report = job.principal, Report(outcome="passed")
        source = source_of(self._system, principal, job.request["segment"], self._engine_kv())
        read = {source.meta.id: source.meta.version}
        new = recovered(source, spec, self._provenance(job, read, report))
        in_transaction = self._system.transforms.still_running(job.id)
        made = self._system.create(principal, [new], in_transaction=in_transaction)[0]
        self._end(job, JobState.DONE, report, made.meta.id)
        return report

    def _engine_kv(self) -> KeptKV:
        """Raises Unprocessable."""
        if self._kept is None:
            raise Unprocessable("no engine with a KV tier runs here: ask a server that has one")
        return self._kept

    def _train(self, job: Transform, folder: JobFolder, order: Order) -> Report:
        if not folder.has_order():
            JobFolder.make(folder.path, order)
        if self._writer is not None and order.studies and not folder.lessons.exists():
            writer, escape = self._writer
            lessons = study(order, writer, escape, self._studying(job, order.max_seconds))
            write_json(folder.lessons, lessons.model_dump(mode="json"))
        module = compacting.MODULES.get(order.kind, MODULE)
        child = Child(folder, order.max_bytes, self._writer is not None, module)
        with contextlib.ExitStack() as interrupted:
            interrupted.callback(child.stop, "interrupted")  # no process outlives its job
            while child.runs():
                self._look(job, folder.progress())
                time.sleep(_LOOK_SECONDS)
            interrupted.pop_all()
        return child.report()

    def _studying(self, job: Transform, max_seconds: float) -> Callable[[int, int], None]:
        started = time.monotonic()

        def done(count: int, total: int) -> None:
            seconds = round(time.monotonic() - started, 1)
            self._look(job, Progress(phase="studying", done=count, total=total, seconds=seconds))
            if seconds > max_seconds:
                raise Unprocessable(f"the time limit of {max_seconds:g} s is over")

        return done

    def _look(self, job: Transform, progress: Progress) -> None:
        """Raises Interrupted."""
        if self._ending.is_set():
            raise Interrupted
        if not self._system.transforms.seen(job.id, progress.model_dump(mode="json")):
            raise Interrupted
        self._on_progress(progress)

    def _store_adapter(
        self, job: Transform, spec: Distill, sources: Sources, folder: JobFolder, report: Report
    ) -> Report:
        if leaked := sources.leaks(self._system.views, report.said):
            report.outcome = "refused"
            report.reasons.append(
                f"leak: it says {len(leaked)} runs of words from memory that not all of its readers may "
                "read, and that its sources do not contain; it is not stored"
            )
            self._end(job, JobState.REFUSED, report, None)
            return report
        payload = ParametricPayload(content=upload_of_folder(folder.adapter))
        try:
            cube = self._store(job, spec, sources, payload, report, folder.order())
        except Conflict as error:  # the name was taken meanwhile: the cube is stored without one
            report.reasons.append(error.message)
            spec = spec.model_copy(update={"name": None})
            cube = self._store(job, spec, sources, payload, report, folder.order())
        state = JobState.DONE if report.outcome == "passed" else JobState.REFUSED
        self._end(job, state, report, cube.meta.id)
        return report

    def _store(
        self,
        job: Transform,
        spec: Distill,
        sources: Sources,
        payload: Payload,
        report: Report,
        order: Order,
    ) -> MemCube:
        provenance = self._provenance(job, order.sources, report)
        in_transaction = self._system.transforms.still_running(job.id)
        passed = report.outcome == "passed"
        if spec.into is not None and passed:
            patch = CubePatch(payload=payload, provenance=provenance)
            return self._system.update(
                job.principal, spec.into, patch, in_transaction=in_transaction
            )
        meta = NewMeta(
            name=spec.name,
            person=sources.person or None,
            shared=not sources.person,
            placement=spec.placement,
            state=State.ACTIVATED if passed else State.GENERATED,
            access=sources.access,
            provenance=provenance,
            tags=["distilled"],
        )
        new = NewCube(meta=meta, payload=payload)
        return self._system.create(job.principal, [new], in_transaction=in_transaction)[0]

    def _decode(self, job: Transform, folder: JobFolder, spec: Decode) -> Report:
        vault = self._system.vault
        cube = vault.get(job.principal, job.request["cube"])
        sources = list(existing(vault, job.principal, cube.meta.provenance.parents))
        names = [cube.meta.name, *(source.meta.name for source in sources)]
        wanted = Decoding(
            topics=[*spec.topics, *(name for name in names if name)],
            samples=spec.samples,
            agreement=spec.agreement,
            rounds=spec.rounds,
        )
        examining.give(self._system, job, cube.meta, folder)
        order = self._order(
            spec.max_seconds,
            kind="decode",
            decoding=wanted,
            sources={cube.meta.id: cube.meta.version},
        )
        report = self._train(job, folder, order)
        if report.outcome != "passed":
            return report
        truth = [item.text for source in sources for item in source.items]
        report.precision = precision(report.statements, truth) if truth else None
        meta = NewMeta(
            name=spec.name,
            person=cube.meta.person,
            shared=cube.meta.person is None,
            state=spec.state,
            access=cube.meta.access,
            provenance=self._provenance(job, folder.order().sources, report),
            tags=["decoded"],
        )
        items = [Item(type=ItemType.FACT, text=statement) for statement in report.statements]
        payload = ExplicitPayload(content=items)
        in_transaction = self._system.transforms.still_running(job.id)
        new = NewCube(meta=meta, payload=payload)
        made = self._system.create(job.principal, [new], in_transaction=in_transaction)[0]
        if spec.kv:
            self._keep_kv(job, made, report)
        self._end(job, JobState.DONE, report, made.meta.id)
        return report

    def _keep_kv(self, job: Transform, made: MemCube, report: Report) -> None:
        try:
            self._engine_kv().build(job.principal, made.meta.id)
        except MemosError as error:
            report.reasons.append(f"its KV is not built: {error.message}")

    def _provenance(self, job: Transform, parents: dict[str, str], report: Report) -> Provenance:
        """Provenance of a product.

        Args:
            parents: cube → the version that was read.
        """
        measured = report.model_dump(
            mode="json", include={"outcome", "reasons", "recall", "precision"}, exclude_none=True
        )
        measured |= {"perplexity_ratio": report.perplexity_ratio, "lessons": report.lessons}
        return Provenance(
            origin=f"transform:{job.kind}",
            message_ids=[job.id],
            model=self._model[0][-500:],
            parents=list(parents),
            parent_versions=list(parents.values()),
            note=json.dumps(measured)[:_NOTE_CHARACTERS],
        )

    def _end(self, job: Transform, state: JobState, report: Report, made: str | None) -> None:
        shown = report.model_dump(mode="json", exclude={"said", "statements"})
        self._system.transforms.end(job.id, state, shown, made)
        log.info("%s %s: %s", job.kind, job.id, state)

    def _order(self, max_seconds: float | None, **given: Any) -> Order:
        model, revision = self._model
        limits = self._system.config.training
        return Order(
            model=model,
            revision=revision,
            max_seconds=min(max_seconds or limits.max_seconds, limits.max_seconds),
            max_bytes=limits.max_bytes,
            threads=limits.threads or self._threads,
            device=limits.device,
            shown_tokens=self._system.config.prompt.budget_tokens,
            **given,
        )

    def _folder(self, job: Transform) -> JobFolder:
        return JobFolder(self._system.config.training_path / job.id)


def _state_of(report: Report) -> JobState:
    ends = {"passed": JobState.DONE, "refused": JobState.REFUSED}
    return ends.get(report.outcome, JobState.FAILED)


def _without(request: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in names}
