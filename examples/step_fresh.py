"""A step for the memory pipeline, whole: of what was found, the newest comes first.

Put it into a package of yours, name it in the package's pyproject.toml,

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
    def moment(found: Found) -> datetime:
        return found.recalled.item.time or _BEGINNING

    return dataclasses.replace(recall, found=sorted(recall.found, key=moment, reverse=True))
