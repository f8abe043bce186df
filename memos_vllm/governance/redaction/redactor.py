"""The redactor: what a tenant's policy keeps out of memory, applied before anything is stored."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from cachetools import LRUCache

from memos_vllm.config.policies import TenantPolicy
from memos_vllm.config.redaction import RedactionConfig, RedactionPolicy
from memos_vllm.cube.model import (
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    Payload,
    Provenance,
)
from memos_vllm.governance.redaction import personal, secrets
from memos_vllm.governance.redaction.recognisers import Recogniser, Span, recogniser_of
from memos_vllm.governance.redaction.secrets import Find

log = logging.getLogger(__name__)
_KNOWN_TEXTS = 8192
_EMPTY = "[removed]"
_SECRETS = frozenset(kind for kind, _ in secrets.SECRETS)
_FINDERS: tuple[tuple[str, str, Find], ...] = (
    *((kind, kind, find) for kind, find in secrets.SECRETS),
    ("email", "e-mail address", personal.emails),
    ("national id", "national id", personal.national_ids),
    ("phone", "phone number", personal.phones),
)
_LABELS = {"email": "e-mail address", "phone": "phone number"}
"""Labels of kinds that are not called as their kind is."""
_MARK = re.compile(r"\[[a-z][a-z -]{1,40} removed\]")
_ROUNDS = 4  # of a recogniser that reads context, which each replacement changes


@dataclasses.dataclass(frozen=True, slots=True)
class Redacted:
    text: str
    kinds: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of parts that were replaced or removed."""
        return self.kinds.total()


class Redactor:
    """Redaction by the policy of one tenant. Raises nothing; idempotent."""

    def __init__(
        self,
        policy: RedactionPolicy,
        found: Callable[[str, int], None] | None = None,
        recogniser: Recogniser | None = None,
    ) -> None:
        """
        Args:
            found: called with (kind, number) of what is kept out.
            recogniser: adds its parts to those of the built-in finders.
        """
        self._mode = policy.mode
        wanted = {*policy.kinds, *(_SECRETS if "secrets" in policy.kinds else ())}
        self._recogniser = recogniser
        self._recognised = recogniser.kinds(wanted) if recogniser is not None else frozenset()
        self._finders = [(label, find) for kind, label, find in _FINDERS if kind in wanted]
        self._reads_letters = "email" in policy.kinds
        self._found = found
        self._known: LRUCache[bytes, bool] = LRUCache(_KNOWN_TEXTS)
        self._lock = threading.Lock()

    @property
    def is_off(self) -> bool:
        return self._mode == "off" or not (self._finders or self._recognised)

    def text(self, text: str) -> Redacted:
        kinds: Counter[str] = Counter()
        if not self.holds_any(text):
            return Redacted(text, kinds)
        for label, find in self._finders:
            text = self._replaced(text, ((*span, label) for span in find(text)), kinds)
        for _ in range(_ROUNDS):
            spans = self._more(text)
            text = self._replaced(text, spans, kinds)
            if not spans:
                break
        if self._found is not None:
            for kind, count in kinds.items():
                self._found(kind, count)
        return Redacted(text, kinds)

    def holds_any(self, text: str) -> bool:
        """Whether a text has what the policy keeps out."""
        if self.is_off or not self._may_hold(text):
            return False
        # A conversation repeats its messages in every request, and a cube its items in every version.
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        with self._lock:
            known = self._known.get(digest)
        if known is None:
            known = any(next(find(text), None) is not None for _, find in self._finders) or bool(
                self._more(text)
            )
            with self._lock:
                self._known[digest] = known
        return known

    def item(self, item: Item, kinds: Counter[str] | None = None) -> Item:
        """The item without it, in its text and in all that was read out of it."""
        if self.is_off:
            return item

        def clean(text: str | None) -> str | None:
            return text if text is None else self._label(text, kinds)

        changed: dict[str, Any] = {
            field: new
            for field in ("text", "speaker", "session", "source")
            if (new := clean(old := getattr(item, field))) != old
        }
        if item.claim is not None and (claim := self._claim(item.claim, clean)) != item.claim:
            changed["claim"] = claim
        return item.model_copy(update=changed | {"id": None}) if changed else item

    def cube(self, new: NewCube) -> NewCube:
        if self.is_off:
            return new
        return new.model_copy(
            update={"meta": self._meta(new.meta), "payload": self.payload(new.payload)}
        )

    def patch(self, patch: CubePatch) -> CubePatch:
        if self.is_off:
            return patch
        changed: dict[str, Any] = {}
        if patch.name is not None:
            changed["name"] = self._label(patch.name)
        if patch.reason is not None:
            changed["reason"] = self._label(patch.reason)
        if patch.tags is not None:
            changed["tags"] = [self._label(tag) for tag in patch.tags]
        if patch.payload is not None:
            changed["payload"] = self.payload(patch.payload)
        if patch.append is not None:
            changed["append"] = [self.item(item) for item in patch.append]
        if patch.provenance is not None:
            changed["provenance"] = self._provenance(patch.provenance)
        return patch.model_copy(update=changed)

    def payload(self, payload: Payload) -> Payload:
        if self.is_off or not isinstance(payload, ExplicitPayload):
            return payload
        content = payload.content
        if isinstance(content, str):
            return payload.model_copy(
                update={"content": self._label(content) if content else content}
            )
        return payload.model_copy(update={"content": [self.item(item) for item in content]})

    def body(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """A turn's stored form (`turns.turn_body`) without it, and how many parts it had."""
        kinds: Counter[str] = Counter()

        def clean(value: Any) -> str:
            redacted = self.text(str(value))
            kinds.update(redacted.kinds)
            return redacted.text

        made = dict(body) | {part: clean(body[part]) for part in ("user", "reply")}
        if "tools" in body:
            made["tools"] = [
                {key: clean(value) for key, value in trace.items()} for trace in body["tools"]
            ]
        return made, kinds.total()

    # -- inside -----------------------------------------------------------------------------------

    def _may_hold(self, text: str) -> bool:
        if self._recognised:
            return bool(text) and not text.isspace()
        return (self._reads_letters and "@" in text) or secrets.may_hold(text)

    def _more(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, label) of what the recogniser finds, outside of the marks of what is gone."""
        if self._recogniser is None or not self._recognised:
            return []
        marks = [match.span() for match in _MARK.finditer(text)]
        return [
            (start, end, _LABELS.get(span.kind, span.kind))
            for span in self._recogniser.spans(text, self._recognised)
            for start, end in _outside(text, span, marks)
        ]

    def _replaced(
        self, text: str, spans: Iterable[tuple[int, int, str]], kinds: Counter[str]
    ) -> str:
        parts, position = [], 0
        for start, end, label in spans:
            if start < position:
                continue
            parts += [text[position:start], f"[{label} removed]" if self._mode == "mark" else ""]
            position = end
            kinds[label] += 1
        return "".join([*parts, text[position:]])

    def _label(self, text: str, kinds: Counter[str] | None = None) -> str:
        """A text that may not become empty."""
        redacted = self.text(text)
        if kinds is not None:
            kinds.update(redacted.kinds)
        return redacted.text if redacted.text.strip() or not redacted.count else _EMPTY

    def _claim(self, claim: Claim, clean: Callable[[str | None], str | None]) -> Claim:
        changed: dict[str, Any] = {
            field: clean(getattr(claim, field)) for field in ("subject", "attribute", "value")
        }
        changed["entities"] = [clean(name) for name in claim.entities]
        changed["sources"] = [clean(name) for name in claim.sources]
        return claim.model_copy(update=changed)

    def _meta(self, meta: NewMeta) -> NewMeta:
        changed: dict[str, Any] = {
            "tags": [self._label(tag) for tag in meta.tags],
            "provenance": self._provenance(meta.provenance),
        }
        if meta.name is not None:
            changed["name"] = self._label(meta.name)
        return meta.model_copy(update=changed)

    def _provenance(self, origin: Provenance) -> Provenance:
        changed = {
            field: self._label(text)
            for field in ("note", "session")
            if (text := getattr(origin, field))
        }
        return origin.model_copy(update=changed)


def _outside(
    text: str, span: Span, marks: Collection[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Parts of a span between marks that hold a letter or a digit."""
    start = span.start
    for first, behind in (*marks, (span.end, span.end)):
        if behind <= start or first > span.end:
            continue
        if any(character.isalnum() for character in text[start:first]):
            yield start, first
        start = behind


class Redactors:
    """The redactor of each tenant."""

    def __init__(
        self,
        config: RedactionConfig,
        found: Callable[[str, int], None] | None = None,
        policy_of: Callable[[str], TenantPolicy] | None = None,
    ) -> None:
        """
        Args:
            policy_of: policy in force of a tenant; None: that of `config`.

        Raises:
            ConfigError: a recogniser of `config` is not installed.
        """
        self._config, self._found, self._policy_of = config, found, policy_of
        self._recogniser = recogniser_of(config)
        self._known: LRUCache[RedactionPolicy, Redactor] = LRUCache(256)
        self._lock = threading.Lock()

    def of(self, tenant: str) -> Redactor:
        of = self._policy_of
        policy = of(tenant).redaction if of is not None else self._config.policy_of(tenant)
        with self._lock:
            if policy not in self._known:
                if unfound := self._config.unfound(policy):
                    # Set while the configuration had a recogniser: a policy that is set now is refused.
                    log.error(
                        "the policy of %s keeps out %s, which no recogniser finds",
                        tenant,
                        ", ".join(unfound),
                    )
                self._known[policy] = Redactor(policy, self._found, self._recogniser)
            return self._known[policy]
