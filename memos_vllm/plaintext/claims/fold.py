"""Fold new claims into known ones, without loss and without duplicates.

    a new claim                  effect
    same value                   the known claim is strengthened: `seen`, and one source more
    other value of the same      the older claim ends where the newer one begins; it stays, and
    subject and attribute        answers questions about the past
    "no longer"                  the known claim ends
    anything else                is added

Only claims of the same subject and attribute supersede each other, so no unrelated claim is lost.
The newer claim is the one that begins later in the world, in any order of recording.

Source: bi-temporal facts as in temporal knowledge graphs (Zep, arXiv 2501.13956).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from memos_vllm.cube.model import Claim, Item, ItemType, plain
from memos_vllm.plaintext.claims.subjects import relatives
from memos_vllm.plaintext.tokens import tokenize

_MOST_SOURCES = 32
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclasses.dataclass
class Folded:
    """Known items after the fold, old order first, and lists of the changed ones."""

    items: list[Item]
    added: list[Item] = dataclasses.field(default_factory=list)
    strengthened: list[Item] = dataclasses.field(default_factory=list)
    ended: list[Item] = dataclasses.field(default_factory=list)
    """Superseded, or ended by a "no longer"."""
    followed: list[Item] = dataclasses.field(default_factory=list)
    """Still true, as far as is known, with a later statement on the same thing."""

    @property
    def changed(self) -> bool:
        return bool(self.added or self.strengthened or self.ended or self.followed)


@dataclasses.dataclass(frozen=True, slots=True)
class Retired:
    """A statement that a newer one replaces, whatever their words (`claims.change`)."""

    item: Item
    """A known claim, or a sentence of an older turn as a claim."""
    since: datetime
    by: str
    """Message with the newer statement."""
    is_certain: bool = True
    """False: a later statement on the same thing, which may be another one (`claims.follow`)."""


def fold(known: Sequence[Item], fresh: Iterable[Item]) -> Folded:
    """Fold new items in, in order. Idempotent.

    Args:
        known: items without a claim are unchanged.
    """
    folded = Folded(list(known))
    for item in fresh:
        _add(folded, item)
    return folded


def retire(folded: Folded, retired: Iterable[Retired]) -> None:
    """End statements that newer ones replace; one that is no claim yet is added as an ended one.

    Where that is not certain, the statement holds and names the later one.  Idempotent: what was replaced
    before keeps its end.
    """
    for each in retired:
        if not each.is_certain:
            _follow(folded, each)
            continue
        position = next(
            (i for i, old in enumerate(folded.items) if _says_the_same(old, each.item)), None
        )
        if position is None:
            ended = _with(each.item, ends=each.since, superseded_by=each.by)
            folded.items.append(ended)
            folded.ended.append(ended)
            continue
        claim = folded.items[position].claim
        is_open = claim is not None and (
            claim.ends is None or folded.items[position].type is ItemType.EVENT
        )
        if is_open and claim is not None and claim.superseded_by is None:
            folded.items[position] = _with(
                folded.items[position], ends=each.since, superseded_by=each.by
            )
            folded.ended.append(folded.items[position])


def _follow(folded: Folded, each: Retired) -> None:
    """Note on a statement that holds the latest one on the same thing."""
    mark = {"followed_by": each.by, "followed_at": each.since}
    position = next(
        (i for i, old in enumerate(folded.items) if _says_the_same(old, each.item)), None
    )
    if position is None:
        folded.items.append(_with(each.item, **mark))
        folded.followed.append(folded.items[-1])
        return
    claim = folded.items[position].claim
    if claim is None or claim.superseded_by is not None or each.by in claim.sources:
        return
    known = _aware(claim.followed_at) or _BEGINNING
    if known < each.since and (_aware(claim.last_seen) or _BEGINNING) < each.since:
        folded.items[position] = _with(folded.items[position], **mark)
        folded.followed.append(folded.items[position])


def _add(folded: Folded, fresh: Item) -> None:
    if any(_was_read(each, fresh) for each in folded.items):
        return
    position = next((i for i, each in enumerate(folded.items) if _is_same(each, fresh)), None)
    if position is not None:
        _strengthen(folded, position, fresh)
        return
    claim = fresh.claim
    if claim is not None and claim.attribute is not None:
        fresh = _supersede(folded, fresh, claim)
    folded.items.append(fresh)
    folded.added.append(fresh)


def _strengthen(folded: Folded, position: int, fresh: Item) -> None:
    """Add the new item's source to the known one, or end it."""
    old, newer = folded.items[position], fresh.claim
    claim = old.claim
    if claim is None or newer is None:
        return
    new_sources = [source for source in newer.sources if source not in claim.sources]
    update: dict[str, object] = {
        "sources": [*claim.sources, *new_sources][:_MOST_SOURCES],
        "last_seen": max(filter(None, (claim.last_seen, _said_at(fresh))), default=None),
    }
    if newer.ends is not None:
        update["ends"] = newer.ends if claim.ends is None else min(claim.ends, newer.ends)
    else:
        if (_said_at(fresh) or _BEGINNING) > (_aware(claim.followed_at) or _BEGINNING):
            update |= {"followed_by": None, "followed_at": None}
        update["seen"] = claim.seen + newer.seen
        update["confidence"] = max(claim.confidence, newer.confidence)
    folded.items[position] = _with(old, **update)
    (folded.ended if newer.ends is not None else folded.strengthened).append(folded.items[position])


def _supersede(folded: Folded, fresh: Item, claim: Claim) -> Item:
    """End the items that the new one supersedes; or the new one, where an item begins later."""
    since = _since(fresh)
    for position, old in enumerate(folded.items):
        if not _is_about_the_same(old, claim):
            continue
        assert old.claim is not None
        if _since(old) <= since:
            # "I used to live in Rome" says nothing about where the person lives today.
            is_over = claim.ends is not None and ":" not in (claim.attribute or "")
            if not is_over and (old.claim.ends is None or old.claim.ends > since):
                folded.items[position] = _with(old, ends=since, superseded_by=fresh.source)
                folded.ended.append(folded.items[position])
                _follow_its_value(folded, old, fresh, since)
        elif claim.ends is None or claim.ends > _since(old):
            fresh = _with(fresh, ends=_since(old))
            assert fresh.claim is not None
            claim = fresh.claim
    return fresh


def _follow_its_value(folded: Folded, old_item: Item, fresh: Item, since: datetime) -> None:
    """Mark sentences that state the value which has ended, in words that no rule reads: "My home is Seville".

    They share a word besides the value with the claim or its attribute: blue is a favourite colour, and one of cars.
    """
    ended = old_item.claim
    assert ended is not None
    old, new = (set(tokenize(each or "")) for each in (ended.value, fresh.text))
    attribute = re.sub(r"[\W_]+", " ", ended.attribute or "")
    about = set(tokenize(f"{old_item.text} {attribute}")) - old - set(tokenize(ended.subject))
    for item in list(folded.items):
        claim = item.claim
        if (
            claim is None
            or claim.attribute is not None
            or plain(claim.subject) != plain(ended.subject)
        ):
            continue
        said = set(tokenize(item.text))
        is_stated = bool(old) and old <= said and bool(about & said)
        if is_stated and not old <= new and not relatives(item.text):
            _follow(folded, Retired(item, since, fresh.source or "", is_certain=False))


def _was_read(old: Item, fresh: Item) -> bool:
    """Whether the known claim has all sources of the new one: the message was read before."""
    if not _says_the_same(old, fresh) or old.claim is None or fresh.claim is None:
        return False
    sources = fresh.claim.sources
    return bool(sources) and set(sources) <= set(old.claim.sources)


def _is_same(old: Item, fresh: Item) -> bool:
    """Whether both state the same, before the known one ended: after it, the claim is a new one."""
    if not _says_the_same(old, fresh) or old.claim is None:
        return False
    return old.claim.ends is None or _since(fresh) < old.claim.ends


def _says_the_same(old: Item, fresh: Item) -> bool:
    left, right = old.claim, fresh.claim
    if left is None or right is None:
        return False
    if old.type is not fresh.type or plain(left.subject) != plain(right.subject):
        return False
    if right.attribute is None or left.attribute is None:
        return plain(old.text) == plain(fresh.text)
    return (left.attribute, plain(left.value)) == (right.attribute, plain(right.value))


def ends_all(claim: Claim, attribute: str | None) -> bool:
    """Whether a claim without a value ends those of an attribute: "not allergic after all", `allergy:nuts`."""
    own = claim.attribute
    return claim.value is None and own is not None and (attribute or "").startswith(f"{own}:")


def _is_about_the_same(old: Item, claim: Claim) -> bool:
    other = old.claim
    if other is None or plain(other.subject) != plain(claim.subject):
        return False
    if ends_all(claim, other.attribute):
        return True
    return other.attribute == claim.attribute and plain(other.value) != plain(claim.value)


def _with(item: Item, **update: object) -> Item:
    assert item.claim is not None
    return item.model_copy(update={"claim": item.claim.model_copy(update=update)})


def _since(item: Item) -> datetime:
    """Beginning of its validity; unknown: the time of the message."""
    begins = item.claim.begins if item.claim is not None else None
    return _aware(begins or item.time) or _BEGINNING


def _said_at(item: Item) -> datetime | None:
    return _aware(item.time)


def _aware(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
