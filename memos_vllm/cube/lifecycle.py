"""MemLifecycle: legal transitions between the states of a cube, and who may make each.

Generated → Activated → Merged → Archived, plus Frozen and Expired, as in the paper's Figure 7.  Archived
cubes can come back; an expired one only as a new version, or with a later end.  A frozen cube is under a
legal hold: only an admin sets and lifts it, and nothing changes or deletes the cube before.
"""

from __future__ import annotations

from enum import StrEnum

from memos_vllm.cube.model import CubePatch, State
from memos_vllm.errors import Conflict, Forbidden, Unprocessable


class Actor(StrEnum):
    """Who makes a transition."""

    OWNER = "owner"
    """The person whose cube it is: their token, or a `writer` key that names them."""
    WRITER = "writer"
    """A `writer` key, for a shared cube with `writers: tenant`."""
    ADMIN = "admin"
    """An `admin` key, for every cube of the tenant."""
    SWEEP = "sweep"
    """The server itself: decay, retention and expiry."""


_PEOPLE = frozenset({Actor.OWNER, Actor.WRITER, Actor.ADMIN})
_ALL = frozenset(Actor)
_ADMIN = frozenset({Actor.ADMIN})

TRANSITIONS: dict[tuple[State, State], frozenset[Actor]] = {
    (State.GENERATED, State.ACTIVATED): _PEOPLE,
    (State.GENERATED, State.ARCHIVED): _ALL,
    (State.GENERATED, State.EXPIRED): _ALL,
    (State.GENERATED, State.FROZEN): _ADMIN,
    (State.ACTIVATED, State.MERGED): _PEOPLE,
    (State.ACTIVATED, State.ARCHIVED): _ALL,
    (State.ACTIVATED, State.EXPIRED): _ALL,
    (State.ACTIVATED, State.FROZEN): _ADMIN,
    (State.MERGED, State.ACTIVATED): _PEOPLE,
    (State.MERGED, State.ARCHIVED): _ALL,
    (State.MERGED, State.EXPIRED): _ALL,
    (State.MERGED, State.FROZEN): _ADMIN,
    (State.ARCHIVED, State.ACTIVATED): _PEOPLE,
    (State.ARCHIVED, State.EXPIRED): _ALL,
    (State.ARCHIVED, State.FROZEN): _ADMIN,
    (State.EXPIRED, State.ARCHIVED): _ALL,
    (State.EXPIRED, State.FROZEN): _ADMIN,
    (State.FROZEN, State.ACTIVATED): _ADMIN,
    (State.FROZEN, State.ARCHIVED): _ADMIN,
    (State.FROZEN, State.EXPIRED): _ADMIN,
}
"""The only legal transitions, each with who may make it."""
READABLE = frozenset({State.ACTIVATED, State.FROZEN})
"""States whose text may be put into a prompt."""
WRITABLE = frozenset({State.GENERATED, State.ACTIVATED, State.MERGED, State.ARCHIVED})
"""States whose payload may get a new version."""


def legal_after(state: State) -> frozenset[State]:
    """States that may follow a state."""
    return frozenset(new for old, new in TRANSITIONS if old is state)


def check_transition(old: State, new: State, actor: Actor | None = None) -> None:
    """Check a transition.

    Args:
        actor: None: only whether the transition is legal for anyone.

    Raises:
        Unprocessable: `new` may not follow `old`; the message lists the legal states.
        Forbidden: it may, by another caller.
    """
    if new == old:
        return
    allowed = TRANSITIONS.get((old, new))
    if allowed is None:
        legal = ", ".join(sorted(legal_after(old)))
        raise Unprocessable(
            f"a cube that is {old} cannot become {new}; it can become {legal}", param="state"
        )
    if actor is not None and actor not in allowed:
        who = ", ".join(f"`{each}`" for each in sorted(allowed))
        raise Forbidden(f"{old} → {new} is for {who}; this caller is `{actor}`", param="state")


def check_hold(old: State, patch: CubePatch) -> None:
    """Check that a patch respects a legal hold, and that it says why it sets or lifts one.

    Raises:
        Unprocessable: the cube is frozen and stays so, or the reason is missing.
    """
    new = patch.state or old
    if old is State.FROZEN and new is State.FROZEN:
        raise Unprocessable(
            "the cube is frozen: an admin has to lift the hold (`state`, with a `reason`) before it "
            "changes",
            param="state",
        )
    if State.FROZEN in (old, new) and not (patch.reason or "").strip():
        raise Unprocessable("a hold is set and lifted with a `reason`", param="reason")


def check_deletable(state: State) -> None:
    """Raise Conflict: the cube is frozen, by itself or as what another one was derived from."""
    if state is State.FROZEN:
        raise Conflict(
            "the cube is frozen: an admin has to lift the hold (`state`, with a `reason`) before it is "
            "deleted"
        )


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
