"""`memos reindex`: rebuild the index from the vault, the source of truth."""

from __future__ import annotations

from memos_vllm.cli.terminal import progress_bar, say
from memos_vllm.cli.vault import ConfigOption, opened
from memos_vllm.errors import Conflict


def reindex(config: ConfigOption = None) -> None:
    """Rebuild the index: after a change of the embedder, or when it is damaged."""
    with opened(config) as system:
        if not system.index.claim():
            raise Conflict(
                f"a running server holds the index {system.config.chroma_path}: stop the server and "
                "try again (a server that starts with another embedder reindexes by itself)"
            )
        system.embedder.warm()  # fails before the index is emptied if the model cannot be loaded
        with progress_bar("indexing") as bar:
            count = system.indexer.rebuild(
                lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)
            )
    say(f"{count} items indexed with {system.config.embedder.model}")
