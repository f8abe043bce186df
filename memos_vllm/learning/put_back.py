"""Put back into a cube what an order to forget took out of it."""

from __future__ import annotations

from collections.abc import Sequence

from memos_vllm.cube.model import Item


def put_back(
    before: Sequence[Item], after: Sequence[Item], current: Sequence[Item]
) -> tuple[list[Item], list[Item]]:
    """Put what a version lost into the current one.

    Args:
        before: the version with the items.
        after: the next version, without them, or with a part of their text.
        current: the newest version; what else was changed since stays changed.
    Returns:
        The items of the cube, and those that came back. An item whose rest was forgotten by a later
        order stays away.
    """
    known = {item.id for item in before}
    result, restored = list(current), []
    position, place = 0, 0  # in `after`, and where the next item goes in `result`
    for item in before:
        at = _index(result, item.id)
        same = position < len(after) and after[position].id == item.id
        if same:
            position += 1
        if same or at is not None:
            place = at + 1 if at is not None else place
            continue
        is_cut = position < len(after) and after[position].id not in known
        if is_cut and (after[position].source, after[position].speaker) == (
            item.source,
            item.speaker,
        ):
            at = _index(result, after[position].id)
            position += 1
            if at is None:
                continue
            result[at] = item
            place = at + 1
        else:
            result.insert(place, item)
            place += 1
        restored.append(item)
    return result, restored


def _index(items: Sequence[Item], ident: str | None) -> int | None:
    return next((number for number, item in enumerate(items) if item.id == ident), None)
