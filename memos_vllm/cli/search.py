"""`memos search`: search memory as a chat does, with the score of each hit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from memos_vllm.as_of import as_of_parameter
from memos_vllm.cli.terminal import moment, print_json, print_table, say
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    PersonOption,
    TenantOption,
    administrator,
    can_index,
    opened,
)
from memos_vllm.cube.filters import flat_filter
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.governance.principal import LOCAL_TENANT, Principal

if TYPE_CHECKING:
    from memos_vllm.plaintext.embed.encoder import Vectors
    from memos_vllm.plaintext.search.search import Found
    from memos_vllm.system import MemorySystem

TagOption = Annotated[list[str] | None, typer.Option("--tag", help="Tag of the cube.")]
TypeOption = Annotated[
    list[str] | None,
    typer.Option("--type", help="Type of the item: episode, fact, preference, event, …"),
]
SessionOption = Annotated[
    list[str] | None, typer.Option("--session", help="Session of the message.")
]
SpeakerOption = Annotated[
    list[str] | None, typer.Option("--speaker", help="Speaker of the message.")
]
SourceOption = Annotated[
    list[str] | None, typer.Option("--source", help="Message id, or name of the document.")
]
CubeOption = Annotated[list[str] | None, typer.Option("--cube", help="Id or name of the cube.")]
SaidFromOption = Annotated[
    str | None, typer.Option("--said-from", help="Time of the message, included.")
]
SaidUntilOption = Annotated[
    str | None, typer.Option("--said-until", help="Time of the message, excluded.")
]
EventFromOption = Annotated[
    str | None, typer.Option("--event-from", help="Time of the event or claim, included.")
]
EventUntilOption = Annotated[
    str | None, typer.Option("--event-until", help="Time of the event or claim, excluded.")
]


def search(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, max=1000, help="Default: retrieval.top_k.")
    ] = None,
    persona: Annotated[
        str | None, typer.Option("--persona", help="Include this persona's memory.")
    ] = None,
    tag: TagOption = None,
    item_type: TypeOption = None,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    source: SourceOption = None,
    cube: CubeOption = None,
    said_from: SaidFromOption = None,
    said_until: SaidUntilOption = None,
    event_from: EventFromOption = None,
    event_until: EventUntilOption = None,
    marked: Annotated[
        bool, typer.Option("--marked", help="Find replies that are no evidence, too.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Past moment: ISO 8601 with a zone, or seconds ago."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search the memory of a person and what the tenant shares.

    A repeated filter is an alternative; different filters hold together.
    """
    words = {"tags": tag, "types": item_type, "session": session}
    words |= {"speaker": speaker, "source": source, "cube": cube}
    times = {"said_from": said_from, "said_until": said_until}
    times |= {"event_from": event_from, "event_until": event_until}
    where = flat_filter(words, times, marked)
    principal = administrator(tenant, person).in_persona(persona)
    past_moment = as_of_parameter(as_of, "--as-of")
    with opened(config) as system:
        count = top_k or system.config.retrieval.top_k
        if past_moment is not None:
            from memos_vllm.steps.as_of import search as search_past

            problem = None
            result = search_past(system, principal, past_moment, question, count, where)
        else:
            vector, problem = _vector(system, principal, question)
            result = system.search(principal, question, vector, count, where=where)
    degraded = problem or result.degraded
    if as_json:
        print_json({"results": [_json(found) for found in result.found], "degraded": degraded})
    else:
        rows = [
            (
                f"{found.score:.3f}",
                moment(item.time),
                item.speaker,
                item.text,
                found.recalled.cube_name,
            )
            for found in result.found
            for item in [found.recalled.item]
        ]
        print_table(("score", "time (UTC)", "speaker", "text", "cube"), rows, "no items found")
    if degraded:
        say(f"lexical search only: {degraded}")


def _vector(
    system: MemorySystem, principal: Principal, question: str
) -> tuple[Vectors | None, str | None]:
    """(vector of the question, reason why there is none)."""
    if not can_index(system):
        return None, "a running server holds the index; search there with POST /v1/memory/search"
    try:
        return asyncio.run(system.embed_question(principal, question)), None
    except EmbedderUnavailable as error:
        return None, error.message


def _json(found: Found) -> dict[str, object]:
    recalled = found.recalled
    return {
        "score": found.score,
        "cube": recalled.cube_id,
        "name": recalled.cube_name,
        "version": recalled.version,
        "person": recalled.person or None,
        "item": recalled.item.model_dump(mode="json"),
        "signals": dict(found.signals),
        "over": found.over.isoformat() if found.over else None,
        "followed": found.followed.isoformat() if found.followed else None,
    }
