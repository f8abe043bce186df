"""Numbered cubes of one purpose: `chat-<session>#1`, `facts#2`.

Names are a person's own data: a cube of any name may exist already.  Only a cube that can be appended to
continues its series, and a new part takes a name that is free, so that no name stops it.
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import TYPE_CHECKING

from memos_vllm.cube.model import Header, Kind, MemCube, State
from memos_vllm.errors import DamagedPayload, NotFound
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.listing import every
from memos_vllm.vault.views import CubeFilter

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)
_PAGE = 4
_NUMBER = re.compile(r"[1-9][0-9]{0,11}")
_TRIES, _RANDOM_BELOW = 8, 10**12


def newest_part(
    system: MemorySystem, principal: Principal, name: str, tag: str
) -> tuple[str, MemCube | None]:
    """(free name for the next part, newest part that can be appended to).

    Args:
        name: of the series, without a number.
        tag: that its cubes carry.
    """
    prefix = f"{name}#"
    where = CubeFilter(person=principal.person, name_prefix=prefix)
    for header in every(system.views, principal, where, _PAGE):
        number = _number(header, prefix)
        if number is not None and header.kind is Kind.EXPLICIT and tag in header.tags:
            return _free(system, principal, prefix, number + 1), _open(system, principal, header)
    return _free(system, principal, prefix, 1), None


def _open(system: MemorySystem, principal: Principal, header: Header) -> MemCube | None:
    if header.state is not State.ACTIVATED:
        return None
    try:
        return system.vault.get(principal, header.id)
    except (DamagedPayload, NotFound) as error:
        log.error("%s continues in a new cube: %s", header.name, error)
        return None


def _free(system: MemorySystem, principal: Principal, prefix: str, number: int) -> str:
    """The name of this number, of one soon behind it, or of a random one."""
    numbers = range(number, number + _TRIES) if number + _TRIES < _RANDOM_BELOW else ()
    for each in numbers:
        if not system.knowledge.is_named(principal, f"{prefix}{each}"):
            return f"{prefix}{each}"
    return f"{prefix}{1 + secrets.randbelow(_RANDOM_BELOW - 1)}"


def _number(header: Header, prefix: str) -> int | None:
    rest = (header.name or "").removeprefix(prefix)
    return int(rest) if _NUMBER.fullmatch(rest) else None
