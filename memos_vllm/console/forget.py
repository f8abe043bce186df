"""Forget with a preview of exactly what goes, undo, and restore to a day."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import HTMLResponse

from memos_vllm.api.claims import Changes, FeedbackRequest
from memos_vllm.api.restores import RestoreRequest
from memos_vllm.console.preview import digest_of_changes
from memos_vllm.console.visit import At, ConsoleRoute, Offset, Visit, asked
from memos_vllm.errors import BadRequest, Conflict

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
SHOWN = 200
What = Literal["items", "text", "session"]
Subject = Annotated[str, Form(max_length=4000, pattern=r"^[^\x00]*$")]
Short = Annotated[str, Form(max_length=200, pattern=r"^[^\x00]*$")]


@router.get("/forget")
def preview(
    visit: At,
    what: Annotated[What, Query()] = "text",
    subject: Annotated[str, Query(max_length=4000, pattern=r"^[^\x00]*$")] = "",
    offset: Offset = 0,
) -> HTMLResponse:
    """What would go: the items, and the sentences of items that stay in part."""
    if not subject.strip():
        return visit.page("forget.html", what=what, subject="", changes=None, is_changed=False)
    return _preview(visit, what, subject, offset)


@router.post("/forget")
def forget(visit: At, what: Annotated[What, Form()], subject: Subject, seen: Short) -> Response:
    """Forget what the preview has shown; where something else would go now, show that instead."""
    found = _run(visit, what, subject, dry_run=True)
    if digest_of_changes(found.did) != seen:
        return _preview(visit, what, subject, is_changed=True)
    done = _run(visit, what, subject, dry_run=False)
    return visit.page("forgotten.html", changes=done, shown=SHOWN)


@router.post("/undo")
def undo(visit: At, undo: Short) -> Response:
    """Take back what was forgotten."""
    visit.calls.feedback(asked(FeedbackRequest, undo=undo))
    return visit.go("person", done="undone")


@router.post("/note")
def note(visit: At, text: Subject) -> Response:
    """Tell memory something: a statement, a correction or a preference of the person."""
    visit.calls.feedback(asked(FeedbackRequest, text=text.replace("\r\n", "\n").strip()))
    return visit.go("person", done="noted")


@router.get("/restore")
def restore_preview(visit: At) -> HTMLResponse:
    """The cubes that a restore to the end of a day would change."""
    found = None
    if visit.day is not None:
        request = asked(RestoreRequest, as_of=visit.day, dry_run=True)
        found = visit.calls.restore(visit.caller.person, request)
    return visit.page("restore.html", found=found, shown=SHOWN)


@router.post("/restore")
def restore(visit: At, moment: Short) -> Response:
    """Restore a person's memory to the end of a day, as new versions."""
    visit.calls.restore(visit.caller.person, asked(RestoreRequest, as_of=moment))
    return visit.go("person", day=None, done="restoring")


def _preview(
    visit: Visit, what: What, subject: str, offset: int = 0, is_changed: bool = False
) -> HTMLResponse:
    found = _run(visit, what, subject, dry_run=True)
    return visit.page(
        "forget.html",
        Conflict.status if is_changed else 200,
        what=what,
        subject=subject,
        changes=found,
        seen=digest_of_changes(found.did),
        is_changed=is_changed,
        offset=offset,
        page=SHOWN,
    )


def _run(visit: Visit, what: What, subject: str, *, dry_run: bool) -> Changes:
    calls = visit.calls
    if what == "session":
        return calls.forget_session(subject, dry_run=dry_run)
    if what == "items":
        ids = subject.split()
        if len(ids) > SHOWN:
            raise BadRequest(f"at most {SHOWN} items at a time", param="subject")
        request = asked(FeedbackRequest, action="forget", items=ids, dry_run=dry_run)
    else:
        # Its preview was shown: that many items match is no surprise.
        request = asked(
            FeedbackRequest, action="forget", text=subject, dry_run=dry_run, confirm=True
        )
    return calls.feedback(request)
