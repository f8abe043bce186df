"""Try it: one message to the chat route, the memory that its reply used, and the reply without memory beside it."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse

from memos_vllm.console.chat import REPLY_TOKENS, Refusal, Reply, ask, has_chat
from memos_vllm.console.visit import At, ConsoleRoute, Visit
from memos_vllm.errors import BadRequest, NotFound
from memos_vllm.governance.permit import PROMPT

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)
_SHOWN = 50

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


@router.get("/try")
def form(visit: At) -> HTMLResponse:
    """A box for a message."""
    visit.calls.admit_chat()
    return _page(visit)


@router.post("/try")
async def send(
    visit: At, message: Message, remember: Box = False, compare: Box = False
) -> HTMLResponse:
    """Send the message, and show the reply with the memory that it used.

    Args:
        remember: whether the turn becomes memory.
        compare: ask once more without memory.
    """
    visit.calls.admit_chat()
    if not has_chat(visit.request):
        raise NotFound("this server has no chat route")
    text = message.replace("\r\n", "\n").strip()
    if not text:
        raise BadRequest("the message is empty", param="message")
    asked: dict[str, Any] = {"said": text, "remember": remember, "compare": compare}
    reply = await _ask(visit, text, _memory(visit, remember))
    if isinstance(reply, Refusal):
        return await asyncio.to_thread(_page, visit, reply, **asked)
    other = await _ask(visit, text, {"enabled": False}) if compare else None
    refused = other if isinstance(other, Refusal) else None
    without = other if isinstance(other, Reply) else None
    return await asyncio.to_thread(_page, visit, refused, reply, without, **asked)


def _memory(visit: Visit, remember: bool) -> dict[str, Any]:
    memory: dict[str, Any] = {"write": remember}
    if visit.day is not None:
        memory["as_of"] = visit.day
    return memory


async def _ask(visit: Visit, text: str, memory: dict[str, Any]) -> Reply | Refusal:
    header = visit.system.config.governance.key_headers[0]
    credential = visit.session.credential
    return await ask(visit.request, header, credential, visit.caller.person, text, memory)


def _page(
    visit: Visit,
    refusal: Refusal | None = None,
    reply: Reply | None = None,
    without: Reply | None = None,
    **asked: Any,
) -> HTMLResponse:
    used = _used(visit, reply) if reply is not None else []
    page = visit.page(
        "try.html",
        refusal.status if refusal is not None else 200,
        has_chat=has_chat(visit.request),
        most=REPLY_TOKENS,
        refusal=refusal,
        reply=reply,
        without=without,
        used=used[:_SHOWN],
        further=max(len(used) - _SHOWN, 0),
        **({"said": "", "remember": False, "compare": False} | asked),
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
