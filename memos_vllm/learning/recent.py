"""Turns of a moment ago that are not memory yet: what follows them waits, so that it knows them.

A turn becomes memory in the background, by any replica, a few tens of milliseconds after its reply.  A
conversation that goes on has its own turns among its messages; one that begins at once, on this replica or
another, would not know what was just said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from memos_vllm.cube.ids import now_us
from memos_vllm.governance.principal import Principal
from memos_vllm.prompt.messages import Message, said_in
from memos_vllm.vault.turns import PendingTurns

_RECENT_US = 30_000_000
"""Older turns wait for something that is broken, and nothing waits for them."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.005, 0.02


async def until_known(
    turns: PendingTurns,
    principal: Principal,
    messages: Sequence[Message] = (),
    wake: Callable[[], None] | None = None,
) -> None:
    """Wait until the turns that the person has ended by now are memory; the caller limits the time.

    Args:
        messages: a conversation, whose own turns are not waited for.
        wake: has a worker of this process look for jobs: the replica that took a turn may be busy.
    Raises:
        VaultUnavailable
    """
    if not principal.person:
        return
    since = now_us() - _RECENT_US
    said = await asyncio.to_thread(turns.said_since, principal, since)
    known = {said_in(message) for message in messages} if said else set()
    awaited = {turn for turn, words in said.items() if words not in known}
    pause = _FIRST_PAUSE_SECONDS
    while awaited:
        if wake is not None:
            wake()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        awaited &= (await asyncio.to_thread(turns.said_since, principal, since)).keys()
