"""All headers of a filter, page by page."""

from __future__ import annotations

from collections.abc import Iterator

from memos_vllm.cube.model import Header
from memos_vllm.governance.principal import Principal
from memos_vllm.vault.views import CubeFilter, VaultViews

_PAGE = 200


def every(
    views: VaultViews, principal: Principal, where: CubeFilter, at_once: int = _PAGE
) -> Iterator[Header]:
    """Headers that the principal may see, newest first, read in pages of `at_once`."""
    cursor = None
    while True:
        headers, cursor = views.page(principal, where, cursor, at_once)
        yield from headers
        if cursor is None:
            return
