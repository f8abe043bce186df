"""A complete step for the memory pipeline: order retrieved items by time, newest first.

Add it to a package, name it in the package's pyproject.toml,

    [project.entry-points."memos.steps"]
    fresh = "my_package.steps:fresh"

and in the configuration of the server:

    pipeline: {recall: [distinct, fresh]}
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from memos_vllm.plaintext.search.search import Found
from memos_vllm.steps import Recall

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def fresh(recall: Recall) -> Recall:
    """Sort retrieved items, newest first; items without a time come last."""

    def moment(found: Found) -> datetime:
        return found.recalled.item.time or _BEGINNING

    return dataclasses.replace(recall, found=sorted(recall.found, key=moment, reverse=True))
