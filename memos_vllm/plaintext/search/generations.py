"""What the vector store is given: vectors of items, and the collections of one embedder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from memos_vllm.errors import IndexUnavailable
from memos_vllm.plaintext.embed.encoder import Vectors
from memos_vllm.vault.items import Owner

View = Literal["turn"]
FIRST_PREFIX = "memos"
"""Of the collections' names, while the embedder was never changed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Vectors of items of one cube."""

    owner: Owner
    cube: str
    ids: Sequence[str]
    vectors: Mapping[View, Vectors]
    """(len(ids), dim) of each view."""


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """Collections with the vectors of one embedder."""

    signature: str
    prefix: str = FIRST_PREFIX
    """Of the collections' names."""

    @property
    def kind(self) -> str:
        """Kind of the files with these vectors (`PartFiles`)."""
        return (
            f"vectors-{hashlib.sha256(f'{self.prefix}|{self.signature}'.encode()).hexdigest()[:16]}"
        )

    def require(self, signature: str | None) -> None:
        """Check that a vector can be compared with these.

        Args:
            signature: of its embedder; None: not known.

        Raises:
            IndexUnavailable
        """
        if signature is not None and self.signature and signature != self.signature:
            raise IndexUnavailable("the embedder has just changed")
