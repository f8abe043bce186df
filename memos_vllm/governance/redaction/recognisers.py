"""Recognisers besides the built-in ones, by `governance.redaction.recognisers`."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from memos_vllm.config.redaction import RedactionConfig
from memos_vllm.errors import ConfigError

INSTALL = "pip install 'memos-vllm[presidio]'"


class Span(NamedTuple):
    start: int
    end: int
    kind: str


class Recogniser(Protocol):
    """Finds parts besides the built-in finders."""

    def kinds(self, wanted: Collection[str]) -> frozenset[str]:
        """The kinds that it finds, of those wanted."""

    def spans(self, text: str, kinds: frozenset[str]) -> list[Span]:
        """Parts of these kinds, sorted and without overlap."""


def recogniser_of(config: RedactionConfig) -> Recogniser | None:
    """The recogniser that the configuration names; None: the built-in ones alone.

    Raises:
        ConfigError: a package, a language or a model is missing; none is downloaded.
    """
    if config.recognisers == "built-in":
        return None
    if find_spec("presidio_analyzer") is None:
        raise ConfigError(
            f"`governance.redaction.recognisers: presidio` needs a package: {INSTALL}"
        )
    # The import takes seconds.
    from memos_vllm.governance.redaction.presidio import PresidioRecogniser

    return PresidioRecogniser(config.presidio)
