"""LangGraph's long-term memory (`BaseStore`) in a person's cubes.

An item of the store is a cube. Its value is stored as items: its shape as JSON, then each string in it, which
search finds by its words and its meaning. Namespaces are tags of the cube, so that a search stays inside of one.

    store = MemosStore(MemoryClient("http://127.0.0.1:8000", key="…", person="alice"))
    graph = builder.compile(store=store)

All items belong to the client's person: a store for several people is one `MemosStore` for each of them.
What an agent stores is the statement of a tool and states nothing of the person.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from memos_vllm.cube.ids import canonical_json, sha256
from memos_vllm.cube.model import TOOL, MemCube
from memos_vllm.errors import BadRequest, Conflict, NotFound, Unprocessable
from memos_vllm.integrations.client import MemoryClient, payload
from memos_vllm.integrations.pieces import joined, pieces

ORIGIN = "langgraph"
_TAG, _UNSEARCHED = "langgraph", "langgraph:unsearched"
_SHAPE = "$shape"
_STRING = "$string"
_MOST_DEPTH = 32
_HITS_PER_CUBE = 4
_MOST_HITS = 200
_ATTEMPTS = 5

Namespace = tuple[str, ...]


class MemosStore(BaseStore):
    """LangGraph's store over the Memory API. It keeps no time to live (`supports_ttl` is false)."""

    __slots__ = ("_client",)

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations in order.

        Raises:
            InvalidNamespaceError: a label is empty, or has a full stop.
            MemosError: the server refuses, or does not answer.
        """
        results: list[Result] = []
        for op in ops:
            validate_op_namespace(op)
            match op:
                case GetOp():
                    results.append(self._get(op))
                case PutOp():
                    self._put(op)
                    results.append(None)
                case SearchOp():
                    results.append(self._search(op))
                case ListNamespacesOp():
                    results.append(self._namespaces(op))
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The same, in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    # -- inside -----------------------------------------------------------------------------------

    def _get(self, op: GetOp) -> Item | None:
        cube = self._client.cube(_name(op.namespace, op.key))
        return Item(**_fields(cube, op.namespace, op.key)) if _is_ours(cube) else None

    def _put(self, op: PutOp) -> None:
        name = _name(op.namespace, op.key)
        if op.value is None:
            try:
                self._client.delete(name)
            except NotFound:
                return
            return
        items = _items(op.value)
        for _ in range(_ATTEMPTS):
            made = self._stored(op, name, items)
            if made is not None:
                joined([item["text"] for item in items], [item.text for item in made.items])
                return
        raise Conflict(f"other writers change {op.namespace!r}, {op.key!r} all the time: try again")

    def _stored(self, op: PutOp, name: str, items: Sequence[Mapping[str, str]]) -> MemCube | None:
        """Change the cube, or make it; None: another writer came in between."""
        meta = _meta(op, name)
        changed = {
            "tags": meta["tags"],
            "provenance": meta["provenance"],
            "payload": payload(items),
        }
        try:
            return self._client.change(name, changed)
        except NotFound:
            pass
        except Conflict:
            return None
        try:
            return self._client.create(meta, items)
        except Conflict:
            return None

    def _search(self, op: SearchOp) -> list[SearchItem]:
        found = self._by_query(op) if op.query else self._newest(op)
        return list(islice(found, op.offset, op.offset + op.limit))

    def _newest(self, op: SearchOp) -> Iterable[SearchItem]:
        for header in self._client.headers(tag=_tag(op.namespace_prefix)):
            item = self._item(header["id"])
            if item is not None and _matches(item.value, op.filter):
                yield item

    def _by_query(self, op: SearchOp) -> Iterable[SearchItem]:
        """Best first; at most 200 hits of the server are looked at."""
        assert op.query is not None
        wanted = (op.offset + op.limit) * _HITS_PER_CUBE
        where = {"tags": {"all": [_tag(op.namespace_prefix)], "none": [_UNSEARCHED]}}
        hits = self._client.search(op.query, min(_MOST_HITS, wanted), where)
        scores: dict[str, float] = {}
        for hit in hits:
            scores.setdefault(hit["cube"], hit["score"])
        for cube, score in scores.items():
            item = self._item(cube)
            if item is not None and _matches(item.value, op.filter):
                item.score = score
                yield item

    def _item(self, cube_id: str) -> SearchItem | None:
        cube = self._client.cube(cube_id)
        if not _is_ours(cube):
            return None  # deleted meanwhile, or a cube of another origin with this tag
        namespace, key = _place(cube.meta.provenance.note)
        return SearchItem(**_fields(cube, namespace, key))

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        found: set[Namespace] = set()
        for header in self._client.headers(tag=_TAG):
            namespace, _ = _place(header["provenance"]["note"])
            if all(_fits(condition, namespace) for condition in op.match_conditions or ()):
                found.add(namespace[: op.max_depth])
        return sorted(found)[op.offset : op.offset + op.limit]


# -- cubes ----------------------------------------------------------------------------------------


def _name(namespace: Namespace, key: str) -> str:
    return "langgraph:" + sha256(canonical_json([list(namespace), key]))


def _tag(prefix: Namespace) -> str:
    """Tag of all cubes at or below a namespace."""
    return f"{_TAG}:{sha256(canonical_json(list(prefix)))[:32]}" if prefix else _TAG


def _meta(op: PutOp, name: str) -> dict[str, Any]:
    if len(op.namespace) > _MOST_DEPTH:
        raise BadRequest(f"a namespace has at most {_MOST_DEPTH} labels", param="namespace")
    tags = [_tag(op.namespace[:depth]) for depth in range(len(op.namespace) + 1)]
    if op.index is False:
        tags.append(_UNSEARCHED)
    place = json.dumps([list(op.namespace), op.key], ensure_ascii=False)
    if len(place) > 2000:
        raise BadRequest("namespace and key have at most 2000 characters together", param="key")
    return {"name": name, "tags": tags, "provenance": {"origin": ORIGIN, "note": place}}


def _place(note: str | None) -> tuple[Namespace, str]:
    namespace, key = json.loads(note or '[[], ""]')
    return tuple(namespace), key


def _is_ours(cube: MemCube | None) -> TypeGuard[MemCube]:
    """Whether a cube is an item of the store whose shape the person has not forgotten."""
    return (
        cube is not None
        and _TAG in cube.meta.tags
        and (cube.meta.name or "").startswith("langgraph:")
        and any((item.source or "").startswith(_SHAPE) for item in cube.items)
    )


def _fields(cube: MemCube, namespace: Namespace, key: str) -> dict[str, Any]:
    return {
        "value": _value(cube),
        "key": key,
        "namespace": namespace,
        "created_at": cube.meta.created,
        "updated_at": cube.meta.updated,
    }


# -- values ---------------------------------------------------------------------------------------


def _items(value: Mapping[str, Any]) -> list[dict[str, str]]:
    """Items of a value: its shape, with a number in place of each string, then the strings.

    Raises:
        BadRequest: it is no JSON.
    """
    strings: list[str] = []
    try:
        shape = json.dumps(_shape(value, strings), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"a value is JSON: {error}", param="value") from error
    texts = [(_SHAPE, shape)] + [(f"${number}", text) for number, text in enumerate(strings)]
    return [
        {"type": "passage", "text": piece, "speaker": TOOL, "source": f"{source}#{part}"}
        for source, text in texts
        for part, piece in enumerate(pieces(text))
    ]


def _shape(value: Any, strings: list[str]) -> Any:
    if isinstance(value, str) and value:
        if "\x00" in value:
            raise ValueError("a string holds a NUL character")
        strings.append(value)
        return {_STRING: len(strings) - 1}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _STRING:
                raise ValueError(f"{key!r} cannot be a key")
        return {key: _shape(each, strings) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shape(each, strings) for each in value]
    return value


def _value(cube: MemCube) -> dict[str, Any]:
    """The value of a cube's items. Raises Unprocessable: the tenant's policy has removed part of its shape."""
    texts: dict[str, str] = {}
    for item in cube.items:
        source = (item.source or "").partition("#")[0]
        texts[source] = texts.get(source, "") + item.text
    try:
        value = _filled(json.loads(texts[_SHAPE]), texts)
    except (ValueError, KeyError, TypeError) as error:
        raise Unprocessable(
            f"the value in cube {cube.meta.id} cannot be read back: a redaction policy, or a change by hand, "
            "has altered it"
        ) from error
    assert isinstance(value, dict)
    return value


def _filled(shape: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(shape, dict):
        if shape.keys() == {_STRING}:
            return texts.get(f"${shape[_STRING]}", "")  # the person may have forgotten it
        return {key: _filled(each, texts) for key, each in shape.items()}
    if isinstance(shape, list):
        return [_filled(each, texts) for each in shape]
    return shape


# -- conditions -----------------------------------------------------------------------------------


def _fits(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    if not path:
        return True
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _matches(value: Mapping[str, Any], where: Mapping[str, Any] | None) -> bool:
    return all(_compared(value.get(key), wanted) for key, wanted in (where or {}).items())


def _compared(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict) or not any(key.startswith("$") for key in wanted):
        return bool(found == wanted)
    return all(_operated(operator, found, operand) for operator, operand in wanted.items())


def _operated(operator: str, found: Any, operand: Any) -> bool:
    match operator:
        case "$eq":
            return bool(found == operand)
        case "$ne":
            return bool(found != operand)
        case "$gt" | "$gte" | "$lt" | "$lte":
            try:
                left, right = float(found), float(operand)
            except (TypeError, ValueError):
                return False
            return {
                "$gt": left > right,
                "$gte": left >= right,
                "$lt": left < right,
                "$lte": left <= right,
            }[operator]
    raise BadRequest(f"{operator!r} is no operator of a filter", param="filter")
