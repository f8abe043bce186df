"""A cube with its whole history, as a person's archive holds it.

Ids of items and versions are left out: they follow from the content and the cube's new id.  A cube keeps
the id of the server that made it, so that an archive of an imported person names the same cubes.
Versions refer to the items of the cube by runs of numbers: a conversation of a hundred versions holds
each turn once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from memos_vllm.cube.model import (
    Access,
    Item,
    Kind,
    Label,
    Name,
    Placement,
    Provenance,
    State,
    Strict,
    Tag,
)
from memos_vllm.cube.moments import Moment

CubeRef = Annotated[str, StringConstraints(pattern=r"^[\w.:-]{1,64}$")]
Author = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tags = Annotated[list[Tag], Field(max_length=64)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]
Run = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
"""(number of its first item, number of items)."""


class ArchivedHeader(Strict):
    """Header of a cube at the time of a version (`records.header_then`)."""

    name: Name | None = None
    state: State
    placement: Placement
    priority: Priority = 0
    tags: Tags = Field(default_factory=list)


class ArchivedVersion(Strict):
    sequence: int = Field(ge=1, le=1 << 53)
    author: Author
    action: Literal["create", "update", "append", "rollback"]
    created: Moment
    provenance: Provenance = Provenance()
    header: ArchivedHeader | None = None
    runs: list[Run] = Field(default_factory=list, description="its items, of a cube of text")
    file: Digest | None = Field(None, description="SHA-256 of the adapter's file")


class ArchivedGrant(Strict):
    kind: Literal["person", "group", "role", "tenant"]
    subject: str = Field("", max_length=256, pattern=r"^[^\x00]*$")
    """Name of a person, group or role; empty: the tenant."""
    effect: Literal["allow", "deny"]
    permissions: list[str] = Field(max_length=16)
    expires: Moment | None = None
    made_by: Label | None = None


class ArchivedCube(Strict):
    id: CubeRef
    name: Name | None = None
    kind: Literal[Kind.EXPLICIT, Kind.PARAMETRIC] = Kind.EXPLICIT
    state: State
    placement: Placement
    priority: Priority = 0
    tags: Tags = Field(default_factory=list)
    access: Access = Access()
    model_fingerprint: str | None = Field(None, max_length=128, pattern=r"^[^\x00]+$")
    created: Moment
    updated: Moment
    expires: Moment | None = None
    reads: int = Field(0, ge=0, le=1 << 53)
    last_read: Moment | None = None
    stale: list[Label] = Field(default_factory=list)
    grants: list[ArchivedGrant] = Field(default_factory=list, max_length=1000)
    versions: list[ArchivedVersion] = Field(min_length=1)
    items: list[Item] = Field(default_factory=list, description="of all versions, each once")

    @model_validator(mode="after")
    def _is_whole(self) -> ArchivedCube:
        before = 0
        for version in self.versions:
            if version.sequence <= before:
                raise ValueError("versions are not in the order of their `sequence`")
            before = version.sequence
            if (version.file is None) == (self.kind is Kind.PARAMETRIC):
                raise ValueError("a version of an adapter has a `file`, one of text has none")
            if any(first + count > len(self.items) for first, count in version.runs):
                raise ValueError("a version names items that the cube lacks")
        return self

    @property
    def has_parents(self) -> bool:
        """Whether a version was derived from other cubes."""
        return any(version.provenance.parents for version in self.versions)

    def items_of(self, version: ArchivedVersion) -> list[Item]:
        """Items of a version, without ids."""
        return [
            self.items[number]
            for first, count in version.runs
            for number in range(first, first + count)
        ]

    def of_person(self, old: str, new: str) -> ArchivedCube:
        """The cube with another name of its person, as speaker, subject and author. Texts stay."""
        if old == new:
            return self

        def renamed(item: Item) -> Item:
            changed: dict[str, Any] = {}
            if item.speaker == old:
                changed["speaker"] = new
            if item.claim is not None and item.claim.subject == old:
                changed["claim"] = item.claim.model_copy(update={"subject": new})
            return item.model_copy(update=changed)

        versions = [
            each.model_copy(update={"author": new}) if each.author == old else each
            for each in self.versions
        ]
        items = [renamed(item) for item in self.items]
        return self.model_copy(update={"versions": versions, "items": items})

    def wire(self) -> dict[str, Any]:
        """JSON form; items stand without ids."""
        tree = self.model_dump(mode="json", exclude_none=True)
        for item in tree["items"]:
            item.pop("id", None)
        return tree


def runs_of(numbers: list[int]) -> list[Run]:
    """Numbers of items as runs."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][0] + found[-1][1]:
            found[-1][1] += 1
        else:
            found.append([number, 1])
    return [(first, count) for first, count in found]
