"""`/v1/memory`: what is known of a person, and what they say about that."""

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


class Said(Strict):
    """A sentence, or items by their ids."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "Forget that I live in Paris."}]},
    )
    text: Text | None = Field(
        None,
        max_length=4000,
        description='"Forget that I live in Paris", "My cat is called Tofu", "Please answer in German"; '
        "with `items` and `correct`, what holds instead",
    )
    action: Literal["forget", "correct", "prefer"] | None = Field(
        None, description="default: what the text says"
    )
    items: list[Text] = Field(default_factory=list, max_length=200, description="ids of items")
    persona: str | None = Field(
        None, pattern=PERSONA, description="what is stated or preferred holds in this one alone"
    )
    dry_run: bool = Field(False, description="say what would be done, and do nothing")

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.text is None and not self.items:
            raise ValueError("give `text`, or `items` with an `action`")
        if self.items and self.action not in ("forget", "correct"):
            raise ValueError("with `items` the `action` is `forget` or `correct`")
        if self.action == "correct" and self.items and (self.text is None or len(self.items) > 1):
            raise ValueError("to correct, name one item and give the `text` that holds instead")
        return self


class ChangeView(Strict):
    action: Literal["forget", "correct", "prefer"]
    item: str
    text: str
    cube: str | None
    version: str | None = Field(description="that was made; null: nothing had to be changed")


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
        datetime | None, Query(description="only what held then; default: all, with what is over")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Claims:
    """What is known of the person, the newest first: what holds, and what held before."""
    found = system.knowledge.claims(caller, subject, attribute, at, limit)
    return Claims(claims=[ClaimView(cube=each.cube, item=each.item) for each in found])


@router.post("/feedback")
def feedback(system: System, caller: Caller, said: Said) -> Changes:
    """Forget, correct, or note a preference: of the person's own memory, and says what was done."""
    acting, text = Feedback(system), said.text or ""
    caller = caller.in_persona(said.persona)
    if said.items and said.action == "forget":
        did = acting.forget_items(caller, said.items, said.dry_run)
    elif said.items:
        did = acting.correct(caller, said.items[0], text, said.dry_run)
    elif said.action == "forget":
        did = acting.forget(caller, text, said.dry_run)
    elif said.action == "prefer":
        did = acting.prefer(caller, text, said.dry_run)
    else:
        did = acting.say(caller, text, said.dry_run)
    return Changes(did=[_view(each) for each in did], dry_run=said.dry_run)


def _view(change: Change) -> ChangeView:
    return ChangeView(
        action=change.action,
        item=change.item,
        text=change.text,
        cube=change.cube,
        version=change.version,
    )
