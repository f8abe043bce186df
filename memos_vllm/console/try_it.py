"""Try it: one message to the chat route, the memory that its reply used, sentence by sentence on request, and the reply
without memory beside it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse

from memos_vllm.console.attribution import MOST, THRESHOLD, Attribution, Unmatched, attribute
from memos_vllm.console.chat import REPLY_TOKENS, Chats, Refusal, Reply, has_chat
from memos_vllm.console.visit import At, ConsoleRoute, Visit
from memos_vllm.errors import BadRequest, NotFound
from memos_vllm.governance.permit import PROMPT

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
_SHOWN = 50
_NOTHING_ASKED = {"said": "", "remember": False, "compare": False, "attribution": False}

Message = Annotated[str, Form(max_length=20_000, pattern=r"^[^\x00]*$")]
Box = Annotated[bool, Form()]


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """An item in the prompt, or a whole cube."""

    cube: str
    name: str
    item: str | None
    text: str | None
    """None: a whole cube, or not readable now."""
    tokens: int
    """Of all its cube's text in the prompt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What the page has to show of a message."""

    reply: Reply | None = None
    without: Reply | None = None
    attribution: Attribution | None = None
    refused: str = ""
    """Which request the route has refused."""
    refusal: Refusal | None = None
    unmatched: str = ""
    """Why no sentence is attributed."""


@router.get("/try")
def form(visit: At) -> HTMLResponse:
    """A box for a message."""
    visit.calls.admit_chat()
    return _page(visit)


@router.post("/try")
async def send(
    visit: At,
    message: Message,
    remember: Box = False,
    compare: Box = False,
    attribution: Box = False,
) -> HTMLResponse:
    """Send the message, and show the reply with the memory that it used.

    Args:
        remember: whether the turn becomes memory.
        compare: ask once more without memory.
        attribution: score the reply without each item of its memory.
    """
    visit.calls.admit_chat()
    if not has_chat(visit.request):
        raise NotFound("this server has no chat route")
    if attribution and not visit.system.config.console.attribution:
        raise NotFound("this server attributes no sentences (`console.attribution`)")
    text = message.replace("\r\n", "\n").strip()
    if not text:
        raise BadRequest("the message is empty", param="message")
    boxes = {"remember": remember, "compare": compare, "attribution": attribution}
    outcome = await _outcome(visit, text, **boxes)
    return await asyncio.to_thread(_page, visit, outcome, said=text, **boxes)


async def _outcome(
    visit: Visit, text: str, *, remember: bool, compare: bool, attribution: bool
) -> Outcome:
    """Send the requests, one after the other, up to the first that is refused."""
    header = visit.system.config.governance.key_headers[0]
    chats = Chats(visit.request, header, visit.session.credential, visit.caller.person)
    memory: dict[str, Any] = {"write": remember}
    if visit.day is not None:
        memory["as_of"] = visit.day
    reply = await chats.ask(text, memory)
    if isinstance(reply, Refusal):
        return Outcome(refused="The chat", refusal=reply)
    done = Outcome(reply)
    if compare:
        other = await chats.ask(text, {"enabled": False})
        if isinstance(other, Refusal):
            return dataclasses.replace(done, refused="The chat without memory", refusal=other)
        done = dataclasses.replace(done, without=other)
    return await _attributed(chats, text, memory, done) if attribution else done


async def _attributed(chats: Chats, text: str, memory: dict[str, Any], done: Outcome) -> Outcome:
    assert done.reply is not None
    if memory["write"]:
        problem = "the turn is remembered, so that memory is not that of the reply any more"
        return dataclasses.replace(done, unmatched=problem)
    try:
        found = await attribute(chats, text, done.reply, memory)
    except Unmatched as problem:
        return dataclasses.replace(done, unmatched=str(problem))
    if isinstance(found, Refusal):
        return dataclasses.replace(done, refused="The scoring of the reply", refusal=found)
    return dataclasses.replace(done, attribution=found)


def _page(visit: Visit, outcome: Outcome | None = None, **asked: Any) -> HTMLResponse:
    outcome = outcome or Outcome()
    refusal = outcome.refusal
    used = _used(visit, outcome.reply) if outcome.reply is not None else []
    by_id = {each.item or each.cube: each for each in used}
    left_out = outcome.attribution.items if outcome.attribution is not None else ()
    page = visit.page(
        "try.html",
        refusal.status if refusal is not None else 200,
        has_chat=has_chat(visit.request),
        may_attribute=visit.system.config.console.attribution,
        most=REPLY_TOKENS,
        most_left_out=MOST,
        threshold=THRESHOLD,
        outcome=outcome,
        used=used[:_SHOWN],
        further=max(len(used) - _SHOWN, 0),
        left_out=[by_id[each] for each in left_out],
        **(_NOTHING_ASKED | asked),
    )
    if refusal is not None and refusal.retry_after is not None:
        page.headers["retry-after"] = refusal.retry_after
    return page


def _used(visit: Visit, reply: Reply) -> list[Used]:
    """What the reply's `memory` names, with the texts that this person's prompts may hold."""
    cubes = (reply.memory or {}).get("cubes", [])
    ids = [item["id"] for cube in cubes for item in cube["items"]]
    texts = visit.system.views.recall(visit.caller, ids, PROMPT)
    found = []
    for cube in cubes:
        name, tokens = cube["name"] or cube["id"], cube["tokens"]
        for item in [each["id"] for each in cube["items"]] or [None]:
            text = texts[item].item.text if item in texts else None
            found.append(Used(cube["id"], name, item, text, tokens))
    return found
