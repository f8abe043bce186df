"""A durable queue, by DBOS. A job is recorded before it runs, and runs again after a kill.

Jobs carry ids, never content: what a job works on lies in the vault, so that deleting it there is
deleting it.  Arguments are stored as JSON (DBOS's portable form), never pickled.  A handler may run
twice and must then change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowSerializationFormat
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from memos_vllm.config.tree import Config
from memos_vllm.errors import VaultUnavailable

log = logging.getLogger(__name__)
_QUEUE, _SLOW_QUEUE = "memos", "memos-slow"
_VERSION = "1"  # raised when a job's meaning changes; jobs of other versions are left to them

_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_BATCH = 1000

Handler = Callable[[str], None]


class JobQueue:
    """One per process: DBOS keeps a global of its own."""

    def __init__(self, config: Config, slow: Collection[str] = ()) -> None:
        """Args: slow: jobs that wait for a model: one at a time, and the others never wait for them."""
        self._config = config
        self._slow = frozenset(slow)
        self._workflows: dict[str, Callable[[str], None]] = {}
        self._launched = False

    def start(self, handlers: dict[str, Handler]) -> None:
        """Launch the workers; jobs that an earlier process left are taken up again."""
        settings: DBOSConfig = {
            "name": "memos",
            "system_database_url": self._config.jobs_url,
            "application_version": _VERSION,
            # One name for all: any process may take up what another left. Handlers are idempotent.
            "executor_id": "memos",
            "log_level": "WARNING",
        }
        with _translated():
            DBOS(config=settings)
            for name, handler in handlers.items():
                self._workflows[name] = _workflow(name, handler)
            DBOS.launch()
            for queue, workers in ((_QUEUE, self._config.jobs.workers), (_SLOW_QUEUE, 1)):
                DBOS.register_queue(
                    queue,
                    worker_concurrency=workers,
                    polling_interval_sec=self._config.jobs.poll_seconds,
                )
        self._launched = True

    def submit(self, name: str, subject: str, attempt: int = 0) -> None:
        """Queue a job for a subject. The same name, subject and attempt queue one job only."""
        queue = _SLOW_QUEUE if name in self._slow else _QUEUE
        with _translated(), SetWorkflowID(f"{name}:{subject}:{attempt}"):
            DBOS.enqueue_workflow(queue, self._workflows[name], subject)

    def forget_finished(self, older_than_seconds: float = 3600.0) -> int:
        """Remove records of jobs that ended a while ago, a batch at a time; returns how many."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with _translated():
            finished = DBOS.list_workflows(
                status=_ENDED,
                queue_name=[_QUEUE, _SLOW_QUEUE],
                completed_before=before.isoformat(),
                limit=_BATCH,
                load_input=False,
                load_output=False,
            )
            if finished:
                DBOS.delete_workflows([workflow.workflow_id for workflow in finished])
        return len(finished)

    def stop(self, wait_seconds: int = 5) -> None:
        """Let running jobs end; queued ones stay for the next start."""
        if self._launched:
            DBOS.destroy(workflow_completion_timeout_sec=wait_seconds)
            self._launched = False


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (dbos_error.DBOSException, SQLAlchemyError, OSError) as error:
        raise VaultUnavailable(f"the job queue does not answer: {error}") from error


def _workflow(name: str, handler: Handler) -> Callable[[str], None]:
    """DBOS registers plain functions only, so a bound method gets one of its own."""

    def run(subject: str) -> None:
        handler(subject)

    run.__qualname__ = f"memos.{name}"
    return DBOS.workflow(name=name, serialization_type=WorkflowSerializationFormat.PORTABLE)(run)
