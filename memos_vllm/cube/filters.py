"""Filters of a search: which items it may find, by properties of the item and of its cube.

    {"speaker": "alice", "types": ["fact", "event"], "tags": {"all": ["health"], "none": ["old"]},
     "said": {"from": "2026-01-01", "until": "2026-04-01"}, "source": {"prefix": "handbook"}}

All conditions hold together.  A word or a list of words is short for `{"any": [...]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from memos_vllm.cube.ids import to_us
from memos_vllm.cube.model import ItemType, Label, Strict
from memos_vllm.errors import BadRequest

_MOST = 100


def _spelled_out(value: Any) -> Any:
    if isinstance(value, str):
        return {"any": [value]}
    return {"any": value} if isinstance(value, list | tuple) else value


class Words(Strict):
    """One of some words, none of others."""

    any: list[Label] | None = Field(None, min_length=1, max_length=_MOST)
    none: list[Label] = Field(default_factory=list, max_length=_MOST)

    def admits(self, word: str | None) -> bool:
        return (self.any is None or word in self.any) and word not in self.none


class Prefixed(Words):
    """As `Words`, or by how the word begins."""

    prefix: Label | None = None

    def admits(self, word: str | None) -> bool:
        begins = self.prefix is None or (word or "").startswith(self.prefix)
        return begins and super().admits(word)


class Tags(Words):
    """Tags of the cube."""

    all: list[Label] = Field(default_factory=list, max_length=_MOST)

    def admit(self, tags: list[str]) -> bool:
        has = set(tags)
        fits = self.any is None or bool(has & set(self.any))
        return fits and has >= set(self.all) and not has & set(self.none)


class Types(Strict):
    any: list[ItemType] | None = Field(None, min_length=1, max_length=_MOST)
    none: list[ItemType] = Field(default_factory=list, max_length=_MOST)


class Span(Strict):
    """A time range, `from` included, `until` not; a time without a zone is UTC."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    begins: datetime | None = Field(None, alias="from")
    ends: datetime | None = Field(None, alias="until")

    @model_validator(mode="after")
    def _has_a_length(self) -> Span:
        if self.begins is None and self.ends is None:
            raise ValueError("a time range needs `from` or `until`")
        begins, ends = self.microseconds()
        if begins is not None and ends is not None and begins >= ends:
            raise ValueError("`from` must be before `until`")
        return self

    def microseconds(self) -> tuple[int | None, int | None]:
        begins = to_us(self.begins) if self.begins is not None else None
        return begins, to_us(self.ends) if self.ends is not None else None


_OneOf = Annotated[Words, BeforeValidator(_spelled_out)]


class ItemFilter(Strict):
    tags: Annotated[Tags, BeforeValidator(_spelled_out)] | None = Field(
        None, description="tags of the cube: `any`, `all`, `none`"
    )
    types: Annotated[Types, BeforeValidator(_spelled_out)] | None = Field(
        None, description="types of the item: `any`, `none`"
    )
    said: Span | None = Field(None, description="time of the message: `from`, `until`")
    event: Span | None = Field(
        None, description="validity of a claim, or the time of its event, overlaps `from`, `until`"
    )
    session: _OneOf | None = Field(None, description="`any`, `none`")
    speaker: _OneOf | None = Field(None, description="`any`, `none`")
    source: Annotated[Prefixed, BeforeValidator(_spelled_out)] | None = Field(
        None, description="message id or document: `any`, `none`, `prefix`"
    )
    cube: _OneOf | None = Field(None, description="id or name of the cube: `any`, `none`")
    marked: bool = Field(False, description="find replies that are no evidence, too")

    @property
    def is_about_time(self) -> bool:
        """Whether claims that have ended are wanted, too."""
        return self.said is not None or self.event is not None


def flat_filter(
    words: Mapping[str, Sequence[str] | None],
    times: Mapping[str, str | None],
    marked: bool = False,
) -> ItemFilter | None:
    """A filter of query parameters or options of the command line; None: there is no condition.

    Args:
        words: alternatives, by the names in `ItemFilter`.
        times: ends of time ranges, by name: `said_from`, `event_until`, …

    Raises:
        BadRequest: a value that a filter does not take; `param` names it.
    """
    tree: dict[str, Any] = {name: list(values) for name, values in words.items() if values}
    for key, value in times.items():
        if value is not None:
            name, _, end = key.partition("_")
            tree.setdefault(name, {})[end] = value
    if marked:
        tree["marked"] = True
    return read_filter(tree) if tree else None


def read_filter(tree: Mapping[str, Any]) -> ItemFilter:
    """Raises BadRequest: an unknown key, or a bad value."""
    try:
        return ItemFilter.model_validate(dict(tree))
    except ValidationError as error:
        problem = error.errors()[0]
        where = "_".join(str(part) for part in problem["loc"] if not isinstance(part, int))
        where = where.removesuffix("_any")
        raise BadRequest(f"{where}: {problem['msg']}", param=where) from error
