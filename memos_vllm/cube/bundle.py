"""States of an installed bundle, and what its newer versions do."""

from __future__ import annotations

from enum import StrEnum


class BundleState(StrEnum):
    QUARANTINED = "quarantined"
    """Installed and not approved: no prompt holds it."""
    ACTIVE = "active"
    REMOVED = "removed"
    """Uninstalled; the publisher and the serial of its index stay known."""


class Follow(StrEnum):
    """What a newer version of a bundle does."""

    NEVER = "never"
    APPROVE = "approve"
    """It is offered, with its difference, and waits for an admin."""
    AUTO = "auto"
