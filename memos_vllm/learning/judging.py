"""The judge of change in force: the model where it passed that part of its exam, else another judge."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from memos_vllm.errors import Unavailable
from memos_vllm.learning.examine import ReaderStatus
from memos_vllm.plaintext.reader.judge import ModelJudge, Verdict

log = logging.getLogger(__name__)


class Judge(Protocol):
    def judge(self, old: str, new: str) -> Verdict:
        """The relation of a person's newer sentence to an older one, each as it was said."""
        ...


class ExaminedJudge:
    """Implements `Judge`. The model may take seconds for a pair: not for the path of a request."""

    def __init__(
        self, model: ModelJudge, otherwise: Judge, status: Callable[[], ReaderStatus]
    ) -> None:
        """
        Args:
            otherwise: judges while the model may not, or does not answer.
        """
        self._model, self._otherwise, self._status = model, otherwise, status

    def judge(self, old: str, new: str) -> Verdict:
        if self._status().judges:
            try:
                return self._model.judge(old, new)
            except Unavailable as error:
                log.warning("a change is judged without the model: %s", error)
        return self._otherwise.judge(old, new)
