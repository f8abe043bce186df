"""Cursors of lists: the place behind a cube, as text that clients hand back."""

from __future__ import annotations

import base64
import json

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, TooLarge
from memos_vllm.vault.tables import CubeRow


def encode(row: CubeRow) -> str:
    return at(row.created_us, row.id)


def at(created_us: int, name: str) -> str:
    """The place behind an entry of a list that is ordered by time and name, newest first."""
    return base64.urlsafe_b64encode(json.dumps([created_us, name]).encode()).decode()


def decode(cursor: str) -> tuple[int, str]:
    """(time of creation in microseconds, cube's id). Raises BadRequest."""
    try:
        moment, cube_id = strict_json.parse(base64.urlsafe_b64decode(cursor.encode()))
        if not isinstance(moment, int) or not -(1 << 63) <= moment < 1 << 63:
            raise ValueError("no time")
        return moment, str(cube_id)
    except (ValueError, TypeError, BadRequest, TooLarge) as error:
        raise BadRequest(
            "the cursor is not one that this server gave out", param="cursor"
        ) from error
