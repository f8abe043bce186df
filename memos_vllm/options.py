"""The one new field of a chat request: `memory` (with the OpenAI client: `extra_body={"memory": …}`)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memos_vllm.errors import BadRequest

PERSONA = r"^[A-Za-z0-9][\w.-]{0,63}$"


class MemoryOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="false: vLLM's own behaviour, byte for byte")
    cubes: tuple[str, ...] = Field((), max_length=64, description="ids or names to put at the head")
    order: Literal["given", "hottest"] = Field(
        "given",
        description="of `cubes`: as they are named, or the tenant's before the person's and the most "
        "used first, so that more people's prompts begin alike",
    )
    retrieve: bool = Field(True, description="search memory for the question")
    top_k: int | None = Field(None, ge=0, le=200)
    budget_tokens: int | None = Field(None, ge=0)
    persona: Annotated[str, Field(pattern=PERSONA)] | None = Field(
        None,
        description="the role that the person acts in (`work`): its own memory (cubes with the tag "
        "`persona:<name>`) joins what they share, and what is said is remembered in it",
    )
    write: bool | None = Field(None, description="remember this turn; default: what the key allows")
    required: bool = Field(False, description="503 instead of an answer without memory")
    kv: Literal["exact", "near", "none"] = Field(
        "exact",
        description="exact: KV of the same tokens in the same place; near: approximate where "
        "exact is not kept; none: computed for this request, and not kept",
    )
    adapter: Annotated[str, Field(max_length=200)] | Literal[False] | None = Field(
        None,
        description="id or name of the parametric cube to attach; false: none; default: the best of "
        "those in `cubes` and of those placed `stable`",
    )

    @property
    def named(self) -> tuple[str, ...]:
        """Every cube that the request names."""
        return (*self.cubes, self.adapter) if self.adapter else self.cubes


def read_options(raw: Any) -> MemoryOptions:
    """Parse the field.

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
