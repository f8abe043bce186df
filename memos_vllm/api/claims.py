"""`/v1/memory`: claims about a person, and the person's feedback on them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Header, Path, Query
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from memos_vllm.api.models import ERRORS, Caller, Moment, System, Word
from memos_vllm.api.models import Body as Strict
from memos_vllm.api.strict import StrictRoute
from memos_vllm.as_of import as_of_parameter
from memos_vllm.cube.ids import now_us, to_us
from memos_vllm.cube.model import Item, Text
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Scope
from memos_vllm.learning.feedback import Change, Done, Feedback
from memos_vllm.options import PERSONA, MemoryOptions, with_zone
from memos_vllm.vault.knowledge import claims_then
from memos_vllm.zones import LONGEST_NAME, checked

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/memory", tags=["claims and feedback"], responses=ERRORS
)


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
    confirm: bool = Field(False, description="forget also where more than 50 items match")
    undo: Text | None = Field(
        None, max_length=100, description="take back what was forgotten: `undo` of that reply"
    )
    timezone: Annotated[str | None, AfterValidator(checked)] = Field(
        None,
        max_length=LONGEST_NAME,
        description="IANA zone of the person, for `yesterday` in the text",
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.undo is not None:
            if self.text is not None or self.items or self.action is not None:
                raise ValueError("`undo` comes alone")
            return self
        if self.text is None and not self.items:
            raise ValueError("give `text`, or `items` with an `action`, or `undo`")
        if self.items and self.action not in ("forget", "correct"):
            raise ValueError("with `items` the `action` is `forget` or `correct`")
        if self.action == "correct" and self.items and (self.text is None or len(self.items) > 1):
            raise ValueError("to correct, give one item and its corrected `text`")
        return self


class ChangeView(Strict):
    action: Literal["forget", "correct", "prefer", "undo"]
    item: str
    text: str
    cube: str | None
    version: str | None = Field(description="the new version; null: no change was needed")
    whole: bool = Field(
        True, description="false: only the sentences in `text` left the item, and the rest stays"
    )


class Changes(Strict):
    did: list[ChangeView]
    dry_run: bool
    undo: str | None = Field(None, description="id that takes it back; null: nothing to undo")
    undo_until: datetime | None = None
    held: int = Field(0, description="matching items that a legal hold keeps")


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
    as_of: Moment = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="claims to leave out")] = 0,
) -> Claims:
    """Claims about the person, newest first: current and ended ones; with `as_of`, what was known then."""
    if (moment := as_of_parameter(as_of)) is not None:
        memory = system.past.memory(caller, min(to_us(moment), now_us()))
        found = claims_then(memory, caller.person, subject, attribute, at, limit, offset)
    else:
        found = system.knowledge.claims(caller, subject, attribute, at, limit, offset)
    return Claims(claims=[ClaimView(cube=each.cube, item=each.item) for each in found])


@router.post("/feedback")
def feedback(
    system: System,
    caller: Caller,
    request: FeedbackRequest,
    x_memos_timezone: Annotated[str | None, Header(max_length=LONGEST_NAME)] = None,
) -> Changes:
    """Forget, correct or add a preference in the person's own memory, and return the changes."""
    zone = with_zone(MemoryOptions(timezone=request.timezone), x_memos_timezone).timezone
    acting, text, dry_run = Feedback(system, zone), request.text or "", request.dry_run
    caller = caller.in_persona(request.persona)
    if request.undo is not None:
        done = acting.undo(caller, request.undo)
    elif request.items and request.action == "forget":
        done = acting.forget_items(caller, request.items, dry_run)
    elif request.items:
        done = acting.correct(caller, request.items[0], text, dry_run)
    elif request.action == "forget":
        done = acting.forget(caller, text, dry_run, request.confirm)
    elif request.action == "prefer":
        done = acting.prefer(caller, text, dry_run)
    else:
        done = acting.say(caller, text, dry_run, request.confirm)
    return _changes(done, dry_run)


@router.delete("/sessions/{session:path}")
def delete_session(
    system: System,
    caller: Caller,
    session: Annotated[
        str,
        Path(max_length=MAX_NAME_LENGTH, pattern=r"^[^\x00]+$", description="name of a session"),
    ],
    undoable: Annotated[
        bool,
        Query(description="keep older versions until the time to undo is over; false: erase now"),
    ] = False,
    dry_run: Annotated[bool, Query(description="return what would go")] = False,
) -> Changes:
    """Delete what the person said in a session, the replies, and claims read from it alone."""
    caller.require_scope(Scope.DELETE)
    acting = Feedback(system)
    done = acting.forget_session(caller, session, dry_run=dry_run, for_good=not undoable)
    return _changes(done, dry_run)


def _changes(done: Done, dry_run: bool) -> Changes:
    return Changes(
        did=[_view(each) for each in done.changes],
        dry_run=dry_run,
        undo=done.undo,
        undo_until=done.undo_until,
        held=done.held,
    )


def _view(change: Change) -> ChangeView:
    return ChangeView(
        action=change.action,
        item=change.item,
        text=change.text,
        cube=change.cube,
        version=change.version,
        whole=change.is_whole,
    )
