"""The `memory` field of a chat request (OpenAI client: `extra_body={"memory": …}`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from memos_vllm import zones
from memos_vllm.as_of import AsOf
from memos_vllm.errors import BadRequest

ZONE_HEADER = "x-memos-timezone"
PERSONA = r"^[A-Za-z0-9][\w.-]{0,63}$"


class MemoryOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="false: vLLM without memory, byte for byte")
    cubes: tuple[str, ...] = Field(
        (), max_length=64, description="ids or names of cubes for the prompt head"
    )
    order: Literal["given", "hottest"] = Field(
        "given",
        description="order of `cubes`. given: as named; hottest: the tenant's before the person's, most "
        "used first, so that prompts of different people share a prefix",
    )
    retrieve: bool = Field(True, description="search memory with the question")
    top_k: int | None = Field(None, ge=0, le=200)
    budget_tokens: int | None = Field(None, ge=0)
    without: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="ids of items, and of whole cubes, that are left out of the prompt that they were chosen for; "
        "no other memory takes their place",
    )
    persona: Annotated[str, Field(pattern=PERSONA)] | None = Field(
        None,
        description="the role that the person acts in (`work`): adds its cubes (tag `persona:<name>`) to "
        "the shared ones, and stores this turn in it",
    )
    write: bool | None = Field(
        None, description="store this turn; default: what the key's role allows"
    )
    required: bool = Field(False, description="503 instead of a reply without memory")
    kv: Literal["exact", "near", "compact", "none"] = Field(
        "exact",
        description="exact: stored KV of the same tokens at the same positions; near: approximate KV "
        "where no exact KV is stored; compact: KV in fewer places than the text has tokens, of cubes that have "
        "a compact; none: compute KV for this request, and do not store it",
    )
    adapter: Annotated[str, Field(max_length=200)] | Literal[False] | None = Field(
        None,
        description="id or name of the parametric cube to attach; false: none; default: the best of "
        "`cubes` and of those placed `stable`",
    )

    as_of: AsOf | None = Field(
        None,
        description="answer with the memory of a past moment: an ISO 8601 time with its zone, or seconds ago; "
        "the turn is remembered only with `write: true`",
    )
    timezone: Annotated[
        str | None, Field(max_length=zones.LONGEST_NAME), AfterValidator(zones.checked)
    ] = Field(
        None,
        description="IANA zone of the person (`Europe/Berlin`), in which `yesterday` is read; default: the "
        "header `X-Memos-Timezone`, else `reader.timezone`",
    )

    @property
    def named(self) -> tuple[str, ...]:
        """Ids or names of all cubes in the request."""
        return (*self.cubes, self.adapter) if self.adapter else self.cubes


def read_options(raw: Any) -> MemoryOptions:
    """Parse the `memory` field.

    Raises:
        BadRequest: not an object, an unknown key (the nearest valid one is named), a bad value.
    """
    if raw is None:
        return MemoryOptions()
    if not isinstance(raw, Mapping):
        raise BadRequest("`memory` must be an object", param="memory")
    try:
        return MemoryOptions.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["memory", *(str(part) for part in problem["loc"])])
        if problem["type"] == "extra_forbidden":
            key = str(problem["loc"][-1])
            nearest = difflib.get_close_matches(key, MemoryOptions.model_fields, n=1, cutoff=0.0)[0]
            raise BadRequest(
                f"unknown key `{where}`; did you mean `memory.{nearest}`?", param=where
            ) from error
        raise BadRequest(f"`{where}`: {problem['msg']}", param=where) from error


def with_kv(options: MemoryOptions, default: str | None) -> MemoryOptions:
    """The options with the tenant's form of KV, where the request names none.

    Args:
        default: None: the tenant may not use any.
    """
    if default is None:
        return options.model_copy(update={"kv": "none"})
    if "kv" in options.model_fields_set or default == options.kv:
        return options
    return options.model_copy(update={"kv": default})


def with_zone(options: MemoryOptions, header: str | None) -> MemoryOptions:
    """The options with the zone of the header, where the body names none.

    Raises:
        BadRequest: the header names no zone.
    """
    if options.timezone is not None or not header:
        return options
    try:
        return options.model_copy(update={"timezone": zones.checked(header)})
    except ValueError as error:
        raise BadRequest(f"`X-Memos-Timezone`: {error}", param="x-memos-timezone") from error
