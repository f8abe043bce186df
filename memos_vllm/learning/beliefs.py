"""Statements of a turn that no rule has read, and the older statements that they replace.

    sentence of the person ─► lasting statement?  ─► kept verbatim, as a claim without an attribute
                           ├► tells of a change?  ─► older claims and own turns that it replaces end
                           └► on the same thing?  ─► older ones hold, and name it as the later one

`changes` asks a model the second question, in any language, where it passed that part of its exam.  Runs
in the background, after the reply.  Instructions that would change the assistant's policy are never
kept (`english.instructions`).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import Claim, Item, ItemType, Standing
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.claims.change import PairJudge
from memos_vllm.plaintext.claims.fold import Retired
from memos_vllm.plaintext.claims.follow import FollowJudge
from memos_vllm.plaintext.claims.standing import standing_of
from memos_vllm.plaintext.claims.subjects import is_fiction, is_request, tells_change
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.english.clauses import clauses
from memos_vllm.plaintext.english.events import tells_event
from memos_vllm.plaintext.reader.by_rules import is_instruction, read_claims
from memos_vllm.plaintext.reader.judge import ModelJudge, is_change
from memos_vllm.plaintext.statements.reader import Statement, StatementReader, own_sentences
from memos_vllm.plaintext.tokens import tokenize

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_COVERED = 0.6
"""Share of a sentence's words in the claims of rules from which the rules have read it."""
_CANDIDATES, _JUDGED = 24, 16
_ASKED, _ASKED_PAIRS = 6, 24
"""Older statements that a model compares with one sentence, and pairs of one turn."""
_LEAST_OLD = 0.1
_LEAST_NEW = 0.3
"""Probability from which on a sentence stands for what it may replace, though it would not be kept alone."""
_CLEAR = 0.3
"""Probability from which on an older sentence states something, and that of a link to one that hardly does."""
_QUESTIONS = ("?", "\uff1f", "\u061f")


@dataclasses.dataclass(frozen=True)
class Beliefs:
    """What a turn says that lasts."""

    claims: list[Item]
    retired: list[Retired]


class BeliefReader:
    def __init__(self, system: MemorySystem) -> None:
        """Reader of statements and changes."""
        self._system = system
        self._reader = StatementReader(system.embedder, [system.config.root / "reader"])
        self._judge = PairJudge(self._reader)
        self._follow = FollowJudge(self._reader)

    def read(self, principal: Principal, turn: Sequence[Item], claims: Sequence[Item]) -> Beliefs:
        """Statements beside those that rules have read, and what the turn replaces.

        Args:
            turn: its items, verbatim.
            claims: what rules have read of it.
        """
        found = Beliefs([], [])
        for item in turn:
            if item.speaker != principal.person or item.type is not ItemType.EPISODE:
                continue
            if is_instruction(item.text):
                continue
            statements = self._reader.read(own_sentences(item.text))
            for statement in statements:
                self._take(principal, item, statement, claims, found)
        return found

    def changes(
        self, principal: Principal, turn: Sequence[Item], claims: Sequence[Item], judge: ModelJudge
    ) -> list[Retired]:
        """Older statements that the turn replaces, by a model, in whatever words and language.

        Only sentences that state something lasting or tell of a change are compared, each with the
        nearest older ones; constraints and other people's facts have the same guard as without a model.

        Args:
            claims: what the model has read of the turn.
        Raises:
            Unavailable: the model does not answer.
        """
        asked: list[tuple[Item, Item, str]] = []  # older statement, item of the turn, its sentence
        for item in turn:
            if item.speaker != principal.person or item.type is not ItemType.EPISODE:
                continue
            if is_instruction(item.text):
                continue
            for statement in self._reader.read(own_sentences(item.text)):
                text = statement.text
                is_claimed = any(_is_of(claim, item, text) for claim in claims)
                if not (statement.is_kept or is_claimed or tells_change(text)):
                    continue
                if _is_question(text):
                    continue
                candidates = self._candidates(principal, item, text)
                asked += [
                    (old, item, text)
                    for old in itertools.islice(candidates, _ASKED)
                    if self._judge.may_replace(_said(old), text)
                ]
        asked = asked[:_ASKED_PAIRS]
        if not asked:
            return []
        found = judge.judge_all([(_said(old), text) for old, _, text in asked])
        now = to_datetime(now_us())
        return [
            Retired(old, item.time or now, item.source or "")
            for (old, item, _), verdict in zip(asked, found, strict=True)
            if is_change(verdict)
        ]

    def _take(
        self,
        principal: Principal,
        item: Item,
        statement: Statement,
        claims: Sequence[Item],
        found: Beliefs,
    ) -> None:
        of_turn = [each for each in claims if each.source == item.source]
        read = _is_read(statement.text, item, of_turn)
        retired = list(self._retired(principal, item, statement, read))
        found.retired.extend(retired)
        stands_for_old = statement.probability >= _LEAST_NEW and any(map(_needs_new, retired))
        if not read and (statement.is_kept or stands_for_old):
            found.claims.append(_claim(principal, item, statement))

    def _retired(
        self, principal: Principal, item: Item, statement: Statement, read: bool
    ) -> Iterator[Retired]:
        """Older statements that a sentence replaces, and those that it may replace.

        Args:
            read: rules have read the sentence: claims of other attributes are on other things.
        """
        text = statement.text
        if _is_of_others(text):
            return
        tells = tells_change(text)
        if not tells and not self._follow.states(statement):
            return
        olds = list(itertools.islice(self._candidates(principal, item, text), _JUDGED))
        gone = list(self._replaced(item, olds, text)) if tells else []
        yield from gone
        over = {id(each.item) for each in gone}
        left = [
            old
            for old in olds
            if id(old) not in over
            and not _is_event(_said(old))
            and (tells or not read or not _has_attribute(old))
            # What rules have read of a sentence stands for it.
            and not (old.id is None and any(_is_part(claim, old) for claim in olds))
        ]
        said = [(old.source or "", _said(old)) for old in left]
        for position, share in self._follow.linked(said, text, stands_out=tells and not gone):
            is_clear = tells or _states(left[position]) or share >= _CLEAR
            if is_clear and self._judge.judge(said[position][1], text) != "same":
                since = item.time or to_datetime(now_us())
                yield Retired(left[position], since, item.source or "", is_certain=False)

    def _replaced(self, item: Item, olds: Sequence[Item], text: str) -> Iterator[Retired]:
        """Older statements that a sentence replaces."""
        since = item.time or to_datetime(now_us())
        found = [self._judge.judge(_said(old), text) for old in olds]
        gone = [old for old, verdict in zip(olds, found, strict=True) if is_change(verdict)]
        # What a rule has read of a sentence goes with it, in whatever words.
        gone += [
            old
            for old in olds
            if old not in gone and any(_is_part(old, sentence) for sentence in gone)
        ]
        for old in gone:
            yield Retired(old, since, item.source or "")

    def _candidates(self, principal: Principal, item: Item, text: str) -> Iterator[Item]:
        """The person's older claims and sentences nearest to a sentence, each once; a known claim before
        its sentence."""
        vector = self._follow.sides([text])[0].vector
        found: dict[tuple[str | None, str], Item] = {}
        moment = item.time or to_datetime(now_us())
        for result in self._system.search(principal, text, vector, _CANDIDATES).found:
            old = result.recalled.item
            if result.recalled.person != principal.person or old.source == item.source:
                continue
            if old.time is not None and old.time > moment:
                continue
            for each in self._statements_of(principal, old, moment):
                key = (each.source, each.text)
                if key not in found or found[key].id is None:
                    found[key] = each
        yield from found.values()

    def _statements_of(self, principal: Principal, old: Item, moment: datetime) -> Iterator[Item]:
        """A claim that holds, or the sentences of an own turn as claims."""
        if old.claim is not None:
            is_over = old.claim.superseded_by is not None or not (
                old.type is ItemType.EVENT or holds(old, moment)
            )
            if old.speaker == principal.person and not is_over:
                yield old
            return
        if old.speaker != principal.person or old.type is not ItemType.EPISODE:
            return
        if is_instruction(old.text):
            return
        for side in self._follow.sides(own_sentences(old.text)):
            if not _is_of_others(side.text):
                yield _claim(principal, old, side.statement)


def _is_of(claim: Item, item: Item, text: str) -> bool:
    """Whether a claim was read of a sentence of an item."""
    value = claim.claim.value if claim.claim is not None else None
    return claim.source == item.source and set(tokenize(value or claim.text)) <= set(tokenize(text))


def _states(old: Item) -> bool:
    """Whether an older sentence states something that a mark could concern: a known claim, or nearly one."""
    claim = old.claim
    return old.id is not None or (claim is not None and claim.confidence >= _LEAST_OLD)


def _needs_new(retired: Retired) -> bool:
    """Whether the newer statement has to be kept: what it may replace leaves the profile for it."""
    old = retired.item
    was_current = old.claim is not None and old.claim.followed_by is None
    return retired.is_certain or (
        old.id is not None and was_current and standing_of(old) is not None
    )


def _has_attribute(claim: Item) -> bool:
    return claim.claim is not None and claim.claim.attribute is not None


def _is_event(text: str) -> bool:
    """Whether a sentence tells what happened once, which stays true whatever happens later."""
    return tells_event(text) and not tells_change(text)


def _is_of_others(text: str) -> bool:
    """Whether a sentence asks, orders, plays or quotes: it says nothing of the person."""
    return _is_question(text) or is_request(text) or is_fiction(text)


def _is_question(text: str) -> bool:
    return text.rstrip().endswith(_QUESTIONS)


def _said(item: Item) -> str:
    """A claim as a sentence of the person: rules write the name in the place of "I"."""
    name = item.speaker or ""
    if item.claim is not None and item.claim.standing is None and item.text.startswith(name):
        rest = item.text[len(name) :].lstrip()
        return f"My {rest[2:].lstrip()}" if rest.startswith("'s") else f"I {rest}"
    return item.text


def _is_part(claim: Item, sentence: Item) -> bool:
    """Whether a claim was read out of a sentence of the same message."""
    if claim.source != sentence.source or claim.claim is None or claim.claim.standing is not None:
        return False
    return _is_covered(claim.claim.value or claim.text, [sentence])


def _claim(principal: Principal, item: Item, statement: Statement) -> Item:
    """A sentence as a claim: verbatim, with speaker, time and source."""
    is_fact = statement.standing is Standing.FACT
    return Item(
        type=ItemType.FACT if is_fact else ItemType.PREFERENCE,
        text=statement.text,
        speaker=item.speaker,
        time=item.time,
        session=item.session,
        source=item.source,
        claim=Claim(
            subject=principal.person,
            confidence=round(statement.probability, 3),
            sources=[item.source] if item.source else [],
            last_seen=item.time,
            standing=statement.standing,
        ),
    )


def _is_read(text: str, item: Item, claims: Sequence[Item]) -> bool:
    """Whether rules have read a sentence: each of its clauses, or most of its words."""
    if not claims or item.speaker is None:
        return False
    parts = [clause.text for clause in clauses(text)]
    if parts and all(
        read_claims([item.model_copy(update={"text": part})], item.speaker) for part in parts
    ):
        return True
    return _is_covered(text, claims)


def _is_covered(text: str, claims: Sequence[Item]) -> bool:
    """Whether claims have most of a sentence's content words."""
    wanted = set(tokenize(text))
    said: set[str] = set().union(*(tokenize(each.text) for each in claims))
    return bool(wanted) and len(wanted & said) >= _COVERED * len(wanted)
