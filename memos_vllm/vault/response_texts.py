"""Texts inside stored replies and conversations: cleaned before they are stored, cut when they are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from memos_vllm.governance.principal import Principal
from memos_vllm.vault.response_tables import ConversationRow, ResponseRow
from memos_vllm.vault.response_use import charge, size_of

FORGOTTEN = "[forgotten]"
_TEXTS = frozenset(
    ("text", "content", "output", "arguments", "input", "instructions", "summary", "reasoning")
)
"""Keys of an item, or a reply, whose strings are text."""
_SHORT = 12
"""Characters of a text that is forgotten only where it stands alone: it may be a part of any sentence."""


def mapped(tree: Any, clean: Callable[[str], str], is_text: bool = False) -> Any:
    """A JSON tree with its texts cleaned; ids, types and roles stay."""
    if isinstance(tree, str):
        return clean(tree) if is_text else tree
    if isinstance(tree, list):
        return [mapped(each, clean, is_text) for each in tree]
    if isinstance(tree, dict):
        return {key: mapped(value, clean, key in _TEXTS) for key, value in tree.items()}
    return tree


def cut_out(session: Session, principal: Principal, lost: Collection[str], until_us: int) -> int:
    """Replace forgotten texts in the person's stored replies and conversations, for good.

    Args:
        lost: as they were said.
        until_us: what was stored later stays.

    Returns:
        Number of replies and conversations that had one of them.
    """
    longest_first = sorted({text for each in lost if (text := each.strip())}, key=len, reverse=True)

    def clean(text: str) -> str:
        for each in longest_first:
            if len(each) >= _SHORT:
                text = text.replace(each, FORGOTTEN)
            elif text.strip() == each:
                text = FORGOTTEN
        return text

    changed = grown = 0
    tables: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (ResponseRow, ("input", "response")),
        (ConversationRow, ("items",)),
    )
    for table, names in tables:
        rows = select(table).where(is_mine(table, principal), table.created_us <= until_us)
        for row in session.scalars(rows.order_by(table.id).with_for_update()):
            before = [getattr(row, name) for name in names]
            after = [mapped(tree, clean) for tree in before]
            if after == before:
                continue
            for name, tree in zip(names, after, strict=True):
                setattr(row, name, tree)
            size = size_of(*after) - size_of(*before)
            row.bytes += size
            changed, grown = changed + 1, grown + size
    charge(session, principal.tenant, principal.person, 0, grown)
    return changed


def owner_of(principal: Principal) -> dict[str, str]:
    return {
        "tenant": principal.tenant,
        "person": principal.person,
        "key_id": "" if principal.person else principal.key_id,
    }


def is_mine(table: Any, principal: Principal) -> ColumnElement[bool]:
    owner = owner_of(principal)
    mine: ColumnElement[bool] = (
        (table.tenant == owner["tenant"])
        & (table.person == owner["person"])
        & (table.key_id == owner["key_id"])
    )
    return mine
