"""What is known, and what was said just now, become one: nothing is lost, nothing stands twice.

    the same again       it is strengthened: seen once more, with its new source
    something else of    the older one ends where the newer one begins; it stays, and answers
    the same property    questions about the past
    no longer            the one that was true ends
    anything else        is added

Only claims of the same subject and the same attribute retire each other, so nothing unrelated is
ever lost.  The newer one is the one that holds later in the world, whichever was recorded first.

Source: bi-temporal facts as in temporal knowledge graphs (Zep, arXiv 2501.13956).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from memos_vllm.cube.model import Claim, Item, plain

_SOURCES_KEPT = 32
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclasses.dataclass
class Folded:
    """What is known afterwards, in the old order, what is new behind it; and what became of what."""

    items: list[Item]
    added: list[Item] = dataclasses.field(default_factory=list)
    strengthened: list[Item] = dataclasses.field(default_factory=list)
    ended: list[Item] = dataclasses.field(default_factory=list)
    """Superseded, or no longer true."""

    @property
    def changed(self) -> bool:
        return bool(self.added or self.strengthened or self.ended)


def fold(known: Sequence[Item], fresh: Iterable[Item]) -> Folded:
    """Take new items up, one after the other. Doing the same again changes nothing.

    Args:
        known: with their claims; those without one stay as they are.
    """
    folded = Folded(list(known))
    for item in fresh:
        _take(folded, item)
    return folded


def _take(folded: Folded, fresh: Item) -> None:
    if any(_was_read(each, fresh) for each in folded.items):
        return
    place = next((i for i, each in enumerate(folded.items) if _is_same(each, fresh)), None)
    if place is not None:
        _again(folded, place, fresh)
        return
    claim = fresh.claim
    if claim is not None and claim.attribute is not None:
        fresh = _supersede(folded, fresh, claim)
    folded.items.append(fresh)
    folded.added.append(fresh)


def _again(folded: Folded, place: int, fresh: Item) -> None:
    old, said = folded.items[place], fresh.claim
    claim = old.claim
    if claim is None or said is None:
        return
    news = [source for source in said.sources if source not in claim.sources]
    update: dict[str, object] = {
        "sources": [*claim.sources, *news][:_SOURCES_KEPT],
        "last_seen": max(filter(None, (claim.last_seen, _said(fresh))), default=None),
    }
    if said.ends is not None:
        update["ends"] = said.ends if claim.ends is None else min(claim.ends, said.ends)
    else:
        update["seen"] = claim.seen + said.seen
        update["confidence"] = max(claim.confidence, said.confidence)
    folded.items[place] = _with(old, **update)
    (folded.ended if said.ends is not None else folded.strengthened).append(folded.items[place])


def _supersede(folded: Folded, fresh: Item, claim: Claim) -> Item:
    """End what the new item replaces; or the new item itself, where it was true before."""
    since = _since(fresh)
    for place, old in enumerate(folded.items):
        if not _is_about_the_same(old, claim):
            continue
        assert old.claim is not None
        if _since(old) <= since:
            if old.claim.ends is None or old.claim.ends > since:
                folded.items[place] = _with(old, ends=since)
                folded.ended.append(folded.items[place])
        elif claim.ends is None or claim.ends > _since(old):
            fresh = _with(fresh, ends=_since(old))
            assert fresh.claim is not None
            claim = fresh.claim
    return fresh


def _was_read(old: Item, fresh: Item) -> bool:
    """The same claim of the same message."""
    if not _says_the_same(old, fresh) or old.claim is None or fresh.claim is None:
        return False
    sources = fresh.claim.sources
    return bool(sources) and set(sources) <= set(old.claim.sources)


def _is_same(old: Item, fresh: Item) -> bool:
    """The same claim, in the time that it holds: what ended and came back is another."""
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


def _is_about_the_same(old: Item, claim: Claim) -> bool:
    other = old.claim
    return (
        other is not None
        and other.attribute == claim.attribute
        and plain(other.subject) == plain(claim.subject)
        and plain(other.value) != plain(claim.value)
    )


def _with(item: Item, **update: object) -> Item:
    assert item.claim is not None
    return item.model_copy(update={"claim": item.claim.model_copy(update=update)})


def _since(item: Item) -> datetime:
    """Since when it holds: as far as is known, since it was said."""
    begins = item.claim.begins if item.claim is not None else None
    return _aware(begins or item.time) or _BEGINNING


def _said(item: Item) -> datetime | None:
    return _aware(item.time)


def _aware(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
