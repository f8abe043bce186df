"""`python -m benchmarks.hygiene [--quick]`: false, lost, outdated and injected memories.

Ten people talk for a hundred turns each: facts, repetitions, facts that change, jokes and hypotheses,
small talk, and prompt injections.  Then questions about the current facts are searched for, and the
memory that a prompt would get is compared with the facts; no model takes part.

junk       claims that were never true, of all stored claims
lost       questions whose answer is not in the memory that the prompt gets
stale      questions about a changed fact for which the prompt gets the old value as current
injection  injected instructions that became claims, or are part of the stable memory
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.hygiene.turns import Asked, Person, people
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import PersonId, TenantId, now_us
from memos_vllm.cube.model import Item
from memos_vllm.demo.embedder import minilm_path
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.queue import JobQueue
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.query import read_text
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt.layout import quote_item
from memos_vllm.system import MemorySystem

TOP_K = 8
_OVER = re.compile(r"until|no longer|formerly", re.IGNORECASE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    output_arguments(parser)
    arguments = parser.parse_args()
    cast = people()[: 1 if arguments.quick else None]
    turns = sum(len(person.turns) for person in cast)
    record = Record("hygiene", options="", config={"people": len(cast), "turns": turns})
    for name, claims in (("memos_vllm", True), ("turns alone, without claims", False)):
        with tempfile.TemporaryDirectory() as home:
            row = {"system": name} | _measure(Path(home), cast, claims)
        record.rows.append(row)
        print(json.dumps(row), flush=True)
    ours = record.rows[0]
    keys = ("junk_share", "facts_lost_share", "stale_served_share", "injection_success_share")
    record.headline |= {key: ours[key] for key in keys}
    record.finish(quick=arguments.quick, out=arguments.out)


def _measure(home: Path, cast: list[Person], claims: bool) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "home": str(home),
        "embedder": {"model": str(minilm_path())},
        "remember": {"claims": claims},
    }
    system = MemorySystem(load_config(overrides=tree)).open()
    seconds = [_talk(system, person) for person in cast]
    counts = [_look(system, person) for person in cast]
    system.close()
    total = {key: sum(count[key] for count in counts) for key in counts[0]}

    def share(part: str, whole: str) -> float | None:
        return round(total[part] / total[whole], 4) if total[whole] else None

    return {
        "junk_share": share("junk", "claims"),
        "facts_lost_share": share("lost", "asked"),
        "stale_served_share": share("stale", "changed"),
        "injection_success_share": share("injected", "attacks"),
        "known_share": share("known", "asked"),
        "ms_per_turn": round(1000 * statistics.median(seconds), 1),
        **total,
    }


def _talk(system: MemorySystem, person: Person) -> float:
    """Remember each turn; returns seconds per turn."""
    rememberer = Rememberer(system, JobQueue(system.jobs, system.config.jobs))
    who = _principal(person)
    started = time.perf_counter()
    for number, turn in enumerate(person.turns):
        body = turn_body(
            [{"role": "user", "content": turn.text}],
            "I see.",
            model="none",
            request_id=f"{person.name}-{number}",
            at_us=now_us(),
        )
        assert body is not None
        rememberer.remember(system.turns.add(who, body))
    return (time.perf_counter() - started) / len(person.turns)


def _look(system: MemorySystem, person: Person) -> dict[str, int]:
    who = _principal(person)
    claims = [each.item for each in system.knowledge.claims(who, limit=10_000)]
    profile = [item for cube in system.views.stable(who, []).texts for item in cube.items]
    attacks = [turn.text for turn in person.turns if turn.kind == "attack"]
    count = {
        "claims": len(claims),
        "junk": sum(not _is_true(item, person) for item in claims),
        "asked": len(person.asked),
        "changed": sum(each.before is not None for each in person.asked),
        "attacks": len(attacks),
        "injected": sum(_has_taken(attack, [*claims, *profile]) for attack in attacks),
        "lost": 0,
        "stale": 0,
        "known": 0,
    }
    for asked in person.asked:
        served = [quote_item(item, lambda text: text) for item in profile]
        served += [
            quote_item(found.recalled.item, lambda text: text, found.over, followed=found.followed)
            for found in _found(system, who, asked)
        ]
        count["lost"] += not any(asked.now in line for line in served)
        count["known"] += any(
            item.claim is not None and item.claim.ends is None and asked.now in item.text
            for item in claims
        )
        if asked.before is not None:
            old = [line for line in served if asked.before in line and asked.now not in line]
            count["stale"] += any(not _OVER.search(line) for line in old)
    return count


def _found(system: MemorySystem, who: Principal, asked: Asked) -> list[Found]:
    query = read_text(asked.question)
    vector = asyncio.run(system.embed_question(who, query.text))
    return system.search(who, query.text, vector, TOP_K).found


def _is_true(item: Item, person: Person) -> bool:
    """Whether the claim states a value that was true of the person at some time."""
    return any(value.casefold() in item.text.casefold() for value in person.truth)


def _has_taken(attack: str, items: list[Item]) -> bool:
    words = set(re.findall(r"\w{4,}", attack.casefold()))
    return any(len(words & set(re.findall(r"\w{4,}", i.text.casefold()))) >= 3 for i in items)


def _principal(person: Person) -> Principal:
    return Principal(TenantId("bench"), Role.WRITER, "bench", PersonId(person.name), "chat")


if __name__ == "__main__":
    main()
