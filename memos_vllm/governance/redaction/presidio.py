"""Presidio as a recogniser: its patterns in each configured language, and the names that a spaCy model finds.

Nothing is downloaded, at the start or later: a language without a model has a blank spaCy pipeline, whose
tokens serve Presidio's patterns as context, and a model that is not installed is an error at the start.
Presidio's recogniser of e-mail addresses, which fetches a list of domains at its first use, is left out:
ours finds them. Long texts are read in windows, which bounds the time of its patterns.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
from spacy.language import Language

from memos_vllm.config.redaction import NAMES, PresidioConfig
from memos_vllm.errors import ConfigError
from memos_vllm.governance.redaction.recognisers import Span

WINDOW, OVERLAP = 1000, 200
"""Characters that Presidio reads at a time, and those that it reads again with the next."""

ENTITIES: dict[str, tuple[str, ...]] = {
    "card number": ("CREDIT_CARD",),
    "bank account": ("IBAN_CODE", "US_BANK_NUMBER"),
    "social security number": ("US_SSN",),
    "phone": ("PHONE_NUMBER",),
    "national id": (
        "DE_ID_CARD",
        "DE_PASSPORT",
        "DE_TAX_ID",
        "ES_NIE",
        "ES_NIF",
        "FI_PERSONAL_IDENTITY_CODE",
        "IN_AADHAAR",
        "IN_PAN",
        "IT_DRIVER_LICENSE",
        "IT_FISCAL_CODE",
        "IT_IDENTITY_CARD",
        "IT_PASSPORT",
        "KR_RRN",
        "PL_PESEL",
        "SE_PERSONNUMMER",
        "SG_NRIC_FIN",
        "TH_TNIN",
        "TR_NATIONAL_ID",
        "UK_NHS",
        "UK_NINO",
        "US_DRIVER_LICENSE",
        "US_ITIN",
        "US_PASSPORT",
    ),
    "network address": ("IP_ADDRESS", "MAC_ADDRESS"),
    "person": ("PERSON",),
    "location": ("LOCATION",),
    "organisation": ("ORGANIZATION",),
}
"""Presidio's entities of each kind of ours."""
_KIND_OF = {entity: kind for kind, entities in ENTITIES.items() for entity in entities}


class Pipelines(SpacyNlpEngine):
    """One spaCy pipeline per language: the configured model, else a blank one. On the CPU."""

    def __init__(self, config: PresidioConfig) -> None:
        """
        Raises:
            ConfigError: spaCy does not know a language, or a model is not installed.
        """
        super().__init__()
        self.of: dict[str, Language] = {
            language: _pipeline(language, config.models.get(language))
            for language in config.languages
        }
        self.nlp = self.of  # type: ignore[assignment]  # declared by its first value, None

    def load(self) -> None:
        """Nothing is left to load."""

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        doc = self.of[language](text)
        for token in doc:
            if not token.lemma:  # no lemmatiser: Presidio compares words as they are
                token.lemma_ = token.lower_
        return self._doc_to_nlp_artifact(doc, language)


class PresidioRecogniser:
    """Recogniser of the configured languages; one text at a time, as spaCy's memory zones need."""

    def __init__(self, config: PresidioConfig) -> None:
        """
        Raises:
            ConfigError: as for `Pipelines`.
        """
        self._pipelines, self._config = Pipelines(config), config
        languages = list(config.languages)
        registry = RecognizerRegistry(supported_languages=languages)
        registry.load_predefined_recognizers(languages, self._pipelines)
        registry.recognizers = [
            each
            for each in registry.recognizers
            if not _KIND_OF.keys().isdisjoint(each.supported_entities)
        ]
        self._analyzer = AnalyzerEngine(registry, self._pipelines, supported_languages=languages)
        self._entities = {
            language: {
                entity
                for entity in self._analyzer.get_supported_entities(language)
                if (kind := _KIND_OF.get(entity)) is not None
                and (kind not in NAMES or language in config.models)
            }
            for language in languages
        }
        self._lock = threading.Lock()

    def kinds(self, wanted: Collection[str]) -> frozenset[str]:
        found = {_KIND_OF[entity] for each in self._entities.values() for entity in each}
        return frozenset(found & set(wanted))

    def spans(self, text: str, kinds: frozenset[str]) -> list[Span]:
        found = [
            Span(start + span.start, start + span.end, span.kind)
            for language, known in self._entities.items()
            if (entities := [entity for entity in known if _KIND_OF[entity] in kinds])
            for start, window in _windows(text)
            for span in self._of_window(window, language, entities)
        ]
        return _joined(sorted(found))

    def _of_window(self, text: str, language: str, entities: list[str]) -> list[Span]:
        # Without a zone, spaCy keeps every word that it has ever read.
        with self._lock, self._pipelines.of[language].memory_zone():
            results = self._analyzer.analyze(
                text, language, entities, score_threshold=self._config.min_score
            )
        return [Span(each.start, each.end, _KIND_OF[each.entity_type]) for each in results]


def _pipeline(language: str, model: str | None) -> Language:
    if model is None:
        try:
            return spacy.blank(language)
        except ImportError as error:
            raise ConfigError(
                f"spaCy has no pipeline for the language {language!r} "
                f"(governance.redaction.presidio.languages): {error}"
            ) from error
    if not (spacy.util.is_package(model) or Path(model).is_dir()):
        raise ConfigError(
            f"the spaCy model {model!r} of `governance.redaction.presidio.models` is not installed: "
            f"python -m spacy download {model}, or name a folder"
        )
    try:
        made = spacy.load(model)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"the spaCy model {model!r} cannot be loaded: {error}") from error
    if made.lang != language:
        raise ConfigError(f"the spaCy model {model!r} is of {made.lang!r}, not of {language!r}")
    return made


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """(start, part) of parts that overlap and end behind a word, where there is one."""
    start = 0
    while True:
        end = start + WINDOW
        if end >= len(text):
            yield start, text[start:]
            return
        space = max(text.rfind(mark, start + WINDOW - OVERLAP, end) for mark in " \n\t")
        end = space + 1 if space > 0 else end
        yield start, text[start:end]
        start = end - OVERLAP


def _joined(spans: list[Span]) -> list[Span]:
    """Sorted spans with those that overlap as one, of the kind of the first."""
    made: list[Span] = []
    for span in spans:
        if made and span.start < made[-1].end:
            made[-1] = made[-1]._replace(end=max(made[-1].end, span.end))
        else:
            made.append(span)
    return made
