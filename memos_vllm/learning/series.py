"""Numbered cubes of one purpose: `chat-<session>#1`, `facts#2`.

Names are a person's own data: a cube of any name may exist already.  Only a cube that can be appended to
continues its series, and a new part takes a number above all that are taken, so that no name stops it.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from memos_vllm.cube.model import Header, Kind, MemCube, State
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.views import CubeFilter

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_PAGE = 200
_NUMBER = re.compile(r"[1-9][0-9]{0,11}")


def newest_part(
    system: MemorySystem, principal: Principal, name: str, tag: str
) -> tuple[int, MemCube | None]:
    """(highest number taken, 0 for none; the newest part that can be appended to, or None).

    Args:
        name: of the series, without its number.
        tag: that its cubes carry.
    """
    highest, parts = 0, []
    for header in _headers(system, principal, f"{name}#"):
        number = _number(header, f"{name}#")
        if number is None:
            continue
        highest = max(highest, number)
        if header.kind is Kind.EXPLICIT and tag in header.tags:
            parts.append((number, header))
    if not parts:
        return highest, None
    newest = max(parts, key=lambda part: part[0])[1]
    if newest.state is not State.ACTIVATED:
        return highest, None
    try:
        return highest, system.vault.get(principal, newest.id)
    except (DamagedPayload, NotFound) as error:
        log.error("%s continues in a new cube: %s", name, error)
        return highest, None


def _headers(system: MemorySystem, principal: Principal, prefix: str) -> list[Header]:
    where = CubeFilter(person=principal.person, name_prefix=prefix)
    found, cursor = system.views.page(principal, where, limit=_PAGE)
    while cursor is not None:
        more, cursor = system.views.page(principal, where, cursor, limit=_PAGE)
        found += more
    return found


def _number(header: Header, prefix: str) -> int | None:
    rest = (header.name or "").removeprefix(prefix)
    return int(rest) if _NUMBER.fullmatch(rest) else None
