"""MemLifecycle: legal transitions between the states of a cube.

Generated → Activated → Merged → Archived, plus Frozen and Expired, as in the paper's Figure 7.
Archived and frozen cubes can come back; an expired one only as a new version.
"""

from __future__ import annotations

from memos_vllm.cube.model import State
from memos_vllm.errors import Conflict, Unprocessable

LEGAL: dict[State, frozenset[State]] = {
    State.GENERATED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED}),
    State.ACTIVATED: frozenset({State.MERGED, State.ARCHIVED, State.FROZEN, State.EXPIRED}),
    State.MERGED: frozenset({State.ACTIVATED, State.ARCHIVED, State.EXPIRED}),
    State.ARCHIVED: frozenset({State.ACTIVATED, State.EXPIRED}),
    State.FROZEN: frozenset({State.ACTIVATED, State.ARCHIVED}),
    State.EXPIRED: frozenset({State.ARCHIVED}),
}
READABLE = frozenset({State.ACTIVATED, State.FROZEN})
"""States whose text may be put into a prompt."""
WRITABLE = frozenset({State.GENERATED, State.ACTIVATED, State.MERGED, State.ARCHIVED})
"""States whose payload may get a new version; a frozen cube must be activated first."""


def check_transition(old: State, new: State) -> None:
    """Check a transition.

    Raises:
        Unprocessable: `new` may not follow `old`; the message lists the legal states.
    """
    if new != old and new not in LEGAL[old]:
        legal = ", ".join(sorted(LEGAL[old]))
        raise Unprocessable(
            f"a cube that is {old} cannot become {new}; it can become {legal}", param="state"
        )


def check_deletable(state: State) -> None:
    """Raise Conflict: the cube is frozen, by itself or as what another one was derived from."""
    if state is State.FROZEN:
        raise Conflict("the cube is frozen: set its state to `archived` before deleting it")


def check_writable(state: State) -> None:
    """Check that the payload may change.

    Raises:
        Unprocessable: the cube is frozen or expired.
    """
    if state not in WRITABLE:
        raise Unprocessable(
            f"the cube is {state}: set its state to `activated` before changing its payload",
            param="state",
        )
