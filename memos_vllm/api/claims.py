"""`/v1/memory`: claims about a person, and the person's feedback on them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, model_validator

from memos_vllm.api.models import ERRORS, Caller, System, Word
from memos_vllm.api.models import Body as Strict
from memos_vllm.cube.model import Item, Text
from memos_vllm.learning.feedback import Change, Feedback
from memos_vllm.options import PERSONA

router = APIRouter(prefix="/v1/memory", tags=["claims and feedback"], responses=ERRORS)


class ClaimView(Strict):
    cube: str
    item: Item


class Claims(Strict):
    claims: list[ClaimView]


class FeedbackRequest(Strict):
    """Feedback on memory: a sentence, or item ids with an action."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Forget that I live in Paris."}]},
    )
    text: Text | None = Field(
        None,
        max_length=4000,
        description='"Forget that I live in Paris", "My cat is called Tofu", "Please answer in German"; '
        "with `items` and `correct`, the corrected text",
    )
    action: Literal["forget", "correct", "prefer"] | None = Field(
        None, description="default: read from the text"
    )
    items: list[Text] = Field(default_factory=list, max_length=200, description="ids of items")
    persona: str | None = Field(
        None, pattern=PERSONA, description="limits the statement or preference to this persona"
    )
    dry_run: bool = Field(False, description="return the changes without making them")

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.text is None and not self.items:
            raise ValueError("give `text`, or `items` with an `action`")
        if self.items and self.action not in ("forget", "correct"):
            raise ValueError("with `items` the `action` is `forget` or `correct`")
        if self.action == "correct" and self.items and (self.text is None or len(self.items) > 1):
            raise ValueError("to correct, give one item and its corrected `text`")
        return self


class ChangeView(Strict):
    action: Literal["forget", "correct", "prefer"]
    item: str
    text: str
    cube: str | None
    version: str | None = Field(description="the new version; null: no change was needed")


class Changes(Strict):
    did: list[ChangeView]
    dry_run: bool


@router.get("/claims")
def list_claims(
    system: System,
    caller: Caller,
    subject: Word = None,
    attribute: Word = None,
    at: Annotated[
        datetime | None,
        Query(description="claims valid at this time; default: all, also ended ones"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Claims:
    """Claims about the person, newest first: current and ended ones."""
    found = system.knowledge.claims(caller, subject, attribute, at, limit)
    return Claims(claims=[ClaimView(cube=each.cube, item=each.item) for each in found])


@router.post("/feedback")
def feedback(system: System, caller: Caller, request: FeedbackRequest) -> Changes:
    """Forget, correct or add a preference in the person's own memory, and return the changes."""
    acting, text = Feedback(system), request.text or ""
    caller = caller.in_persona(request.persona)
    if request.items and request.action == "forget":
        did = acting.forget_items(caller, request.items, request.dry_run)
    elif request.items:
        did = acting.correct(caller, request.items[0], text, request.dry_run)
    elif request.action == "forget":
        did = acting.forget(caller, text, request.dry_run)
    elif request.action == "prefer":
        did = acting.prefer(caller, text, request.dry_run)
    else:
        did = acting.say(caller, text, request.dry_run)
    return Changes(did=[_view(each) for each in did], dry_run=request.dry_run)


def _view(change: Change) -> ChangeView:
    return ChangeView(
        action=change.action,
        item=change.item,
        text=change.text,
        cube=change.cube,
        version=change.version,
    )
