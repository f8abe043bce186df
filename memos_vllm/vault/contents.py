"""Content of a version: items of text, or the file of an adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memos_vllm.cube.ids import CubeId, sha256
from memos_vllm.cube.model import (
    ExplicitPayload,
    Item,
    Kind,
    MemCube,
    ParametricPayload,
    Payload,
    VersionDiff,
)
from memos_vllm.errors import NotBuilt, TooLarge, Unprocessable
from memos_vllm.governance.redaction.redactor import Redactor
from memos_vllm.parametric.adapter.packed import unpack
from memos_vllm.vault import records


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    kind: Kind
    items: Sequence[Item] = ()
    adapter: bytes = b""
    model: str | None = None
    """Fingerprint of the model that an adapter was checked against."""

    def file(self, cube: CubeId) -> bytes:
        """The payload file."""
        if self.kind is Kind.PARAMETRIC:
            return self.adapter
        return records.payload_bytes(records.identify(cube, list(self.items)))

    def payload(self, cube: CubeId) -> Payload:
        """Payload in the Memory API's form."""
        if self.kind is Kind.PARAMETRIC:
            summary = unpack(self.adapter).summary(sha256(self.adapter), len(self.adapter))
            return ParametricPayload(content=summary)
        return ExplicitPayload(content=records.identify(cube, list(self.items)))


def of_payload(payload: Payload, most_items: int) -> Content:
    """Content of a payload that a client sent; the caller has cut text and checked adapters.

    Raises:
        NotBuilt: a kind that only the server itself makes.
        TooLarge
        Unprocessable: an adapter that was not checked.
    """
    if isinstance(payload, ParametricPayload):
        if payload._file is None:
            raise Unprocessable("an adapter has to be checked before it is stored")
        return Content(Kind.PARAMETRIC, adapter=payload._file, model=payload._model)
    if not isinstance(payload, ExplicitPayload):
        raise NotBuilt(
            f"memory of the kind `{payload.type}` is made by the server itself: store `explicit` text, "
            "and its KV is stored when it is used (or at once: POST \u2026/activate)"
        )
    content = payload.content
    if isinstance(content, str):
        content = [Item(text=content)] if content.strip() else []
    if len(content) > most_items:
        raise TooLarge(
            f"a cube holds at most {most_items} items; this one has {len(content)}", param="payload"
        )
    return Content(Kind.EXPLICIT, content)


def of_file(kind: str, data: bytes, cube: str) -> Content:
    """Content of a payload file. Raises DamagedPayload."""
    if kind == Kind.PARAMETRIC:
        return Content(Kind.PARAMETRIC, adapter=data)
    return Content(Kind.EXPLICIT, records.payload_items(data, cube))


def appended(content: Content, items: Sequence[Item]) -> Content:
    """Content with further items. Raises Unprocessable: it is no text."""
    if content.kind is not Kind.EXPLICIT:
        raise Unprocessable("only text can be appended to: replace the `payload`", param="append")
    return dataclasses.replace(content, items=[*content.items, *items])


def redacted(content: Content, redactor: Redactor) -> Content:
    """Content of an older version without what the policy keeps out now."""
    return dataclasses.replace(content, items=[redactor.item(item) for item in content.items])


def by_id(payload: Payload) -> dict[str | None, Item]:
    """The items of a text by their ids. Raises Unprocessable: it is no text."""
    if not isinstance(payload, ExplicitPayload) or isinstance(payload.content, str):
        raise Unprocessable("only versions of text can be compared item by item")
    return {item.id: item for item in payload.content}


def difference(before: MemCube, after: MemCube) -> VersionDiff:
    """Items that a newer version of a cube has added and removed."""
    old, new = by_id(before.payload), by_id(after.payload)
    return VersionDiff(
        cube=after.meta.id,
        older=before.meta.version,
        newer=after.meta.version,
        added=[item for key, item in new.items() if key not in old],
        removed=[item for key, item in old.items() if key not in new],
    )
