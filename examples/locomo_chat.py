"""Ask ten questions about a LoCoMo conversation, and show the retrieved turns beside the evidence.

    python examples/locomo_chat.py --base-url http://127.0.0.1:8000/v1 --api-key sk-memos-…

Imports one conversation over the Memory API (a key of the role `writer` is enough), asks questions of the
data set, and shows for each the turns that the server put into the prompt and the turns that the data set
names as evidence.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
from rich.console import Console
from rich.text import Text

from memos_vllm.errors import MemosError
from memos_vllm.importers.locomo import (
    Conversation,
    choose_conversation,
    read_conversations,
    session_cubes,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "locomo10.json"
WHERE = "Get LoCoMo from https://github.com/snap-research/locomo (data/locomo10.json, CC BY-NC)"
CATEGORIES = {1: "several turns", 2: "time", 3: "open domain", 4: "single turn"}
EVIDENCE = re.compile(r"D(\d+):(\d+)")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    console = Console(highlight=False)
    if not options.file.is_file():
        console.print(f"There is no {options.file}. {WHERE}", markup=False, soft_wrap=True)
        return 1
    try:
        run(options, console)
    except (MemosError, httpx.HTTPError, openai.OpenAIError) as error:
        console.print(f"locomo_chat: {error}", markup=False, soft_wrap=True)
        return 1
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    conversation = choose_conversation(read_conversations(options.file), options.conversation)
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    memory = MemoryApi(httpx.Client(base_url=options.base_url, headers=headers, timeout=300.0))
    for person in conversation.speakers:
        made = memory.remember(conversation, person)
        console.print(f"{person}: {made} new cubes of {len(conversation.sessions)} sessions")
    client = openai.OpenAI(base_url=options.base_url, api_key=options.api_key or "none")
    model = options.model or client.models.list().data[0].id
    turns = {turn.dia_id: turn.shown for s in conversation.sessions for turn in s.turns}
    found_total = wanted_total = 0
    questions = spread(conversation.questions, options.questions)
    for question in questions:
        person = person_of(str(question["question"]), conversation.speakers)
        reply = client.chat.completions.create(
            model=model,
            user=person,
            messages=[{"role": "user", "content": str(question["question"])}],
            max_tokens=options.max_tokens,
            temperature=0,
            extra_body={"memory": {"write": False}},
        )
        retrieved = memory.sources((reply.model_extra or {}).get("memory") or {}, person)
        wanted = evidence_of(question)
        found_total += len(set(wanted) & retrieved.keys())
        wanted_total += len(wanted)
        answer = reply.choices[0].message.content or ""
        show(
            console,
            question,
            person,
            retrieved,
            {dia: turns.get(dia, "") for dia in wanted},
            answer,
        )
    recall = found_total / wanted_total if wanted_total else 0.0
    console.print(
        f"\nevidence recall: {found_total} of {wanted_total} turns ({recall:.0%}) over "
        f"{len(questions)} questions"
    )


class MemoryApi:
    """Client of the Memory API. `http`: its base is the server's `/v1`, its headers hold the key."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._cubes: dict[tuple[str, str], dict[str, Any]] = {}

    def remember(self, conversation: Conversation, person: str) -> int:
        """Store a cube per session that the person lacks; returns the number of new cubes."""
        stored = self._names(person)
        cubes = [
            new.model_dump(mode="json", exclude_none=True)
            for new in session_cubes(conversation, person)
            if new.meta.name not in stored
        ]
        if cubes:
            self._call("POST", "memory/cubes/batch", person, json={"cubes": cubes})
        return len(cubes)

    def sources(self, memory: Mapping[str, Any], person: str) -> dict[str, str]:
        """Text of the items in a reply's `memory`, by source turn (`D3:11`)."""
        texts: dict[str, str] = {}
        for entry in memory.get("cubes", ()):
            wanted = {item["id"] for item in entry.get("items") or ()}
            for item in self._cube(entry["id"], person)["payload"]["content"]:
                if not wanted or item["id"] in wanted:
                    texts[item.get("source") or item["id"]] = item["text"]
        return texts

    def _names(self, person: str) -> set[str]:
        names: set[str] = set()
        query: dict[str, Any] = {"person": person, "limit": 200}
        while True:
            page = self._call("GET", "memory/cubes", person, params=query)
            names |= {header["name"] for header in page["cubes"] if header.get("name")}
            if page["next_cursor"] is None:
                return names
            query["cursor"] = page["next_cursor"]

    def _cube(self, cube_id: str, person: str) -> dict[str, Any]:
        key = (cube_id, person)
        if key not in self._cubes:
            self._cubes[key] = self._call("GET", f"memory/cubes/{cube_id}", person)
        return self._cubes[key]

    def _call(self, method: str, path: str, person: str, **arguments: Any) -> Any:
        reply = self._http.request(method, path, headers={"X-Memos-User": person}, **arguments)
        if reply.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {reply.status_code} {reply.text}",
                request=reply.request,
                response=reply,
            )
        return reply.json()


def spread(questions: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Pick `count` answerable questions: all categories, evenly spread over the conversation."""
    by_category = [
        [q for q in questions if q.get("category") == category and evidence_of(q)]
        for category in CATEGORIES
    ]
    shares = [count // len(by_category)] * len(by_category)
    for extra in range(count % len(by_category)):
        shares[-1 - extra] += 1
    return [
        pool[position * len(pool) // share]
        for pool, share in zip(by_category, shares, strict=True)
        for position in range(min(share, len(pool)))
    ]


def evidence_of(question: Mapping[str, Any]) -> list[str]:
    """Turn ids of the evidence; some entries hold several ids or leading zeros (`D8:6; D9:17`, `D30:05`)."""
    found = [
        f"D{int(match[1])}:{int(match[2])}"
        for entry in question.get("evidence") or ()
        for match in EVIDENCE.finditer(str(entry))
    ]
    return list(dict.fromkeys(found))


def person_of(question: str, speakers: Sequence[str]) -> str:
    """Speaker whom the question names first; default: the first speaker."""
    lower = question.lower()
    named = [(lower.find(name.lower()), name) for name in speakers if name.lower() in lower]
    return min(named)[1] if named else speakers[0]


def show(
    console: Console,
    question: Mapping[str, Any],
    person: str,
    retrieved: Mapping[str, str],
    evidence: Mapping[str, str],
    answer: str,
) -> None:
    kind = CATEGORIES[question["category"]]
    console.print()
    console.print(Text(f"Q ({kind}, as {person}): {question['question']}", style="bold"))
    console.print(Text(f"gold answer: {question.get('answer')}"))
    for source, text in retrieved.items():
        mark = "*" if source in evidence else " "
        console.print(Text(f"  retrieved {mark} {source}: {text}"))
    for source, text in evidence.items():
        mark = "found " if source in retrieved else "MISSED"
        console.print(Text(f"  evidence {mark} {source}: {text}"))
    console.print(Text(f"reply: {answer.strip()}", style="cyan"))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=DATA, help="locomo10.json")
    parser.add_argument(
        "--base-url", default="http://127.0.0.1:8000/v1", help="default: %(default)s"
    )
    parser.add_argument("--api-key", help="of `memos keys create`; none on a server without keys")
    parser.add_argument("--model", help="default: the first that the server lists")
    parser.add_argument("--conversation", default="1", help="number or sample id; default: 1")
    parser.add_argument("--questions", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=96, help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
