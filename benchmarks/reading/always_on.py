"""One preference of PrefEval among unrelated conversations: does it stand in every prompt, or is it found?"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reading.corrections import Talker, person

_TURNS = 3
"""User turns of each unrelated conversation."""


def read(path: Path) -> dict[str, Any]:
    """PrefEval as one file: `explicit` by topic, `distractor_conversations`."""
    tree: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return tree


def explicit(tree: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(topic, preference, question)"""
    return [
        (topic, entry["preference"], entry["question"])
        for topic, entries in sorted(tree["explicit"].items())
        for entry in entries
    ]


def measure(talker: Talker, tree: Mapping[str, Any], people: int) -> dict[str, Any]:
    """Shares over people with one preference each, evenly over the topics."""
    every = explicit(tree)
    chosen = every[:: max(1, len(every) // people)][:people]
    between = list(_between(tree))
    always = in_prompt = beside = size = marks = 0
    for number, (_, preference, question) in enumerate(chosen):
        who = person(f"prefeval{number}")
        talker.say(who, preference)
        for text in between:
            talker.say(who, text)
        profile, found = talker.served(who, question)
        own = [item for item in profile if item.text in preference or preference in item.text]
        always += bool(own)
        in_prompt += bool(own) or any(
            found_one.recalled.item.text in preference for found_one in found
        )
        beside += len(profile) - len(own)
        size += len(profile)
        claims = [each.item.claim for each in talker.system.knowledge.claims(who)]
        marks += sum(claim is not None and claim.followed_by is not None for claim in claims)
    count = len(chosen)
    return {
        "people": count,
        "turns_between": len(between),
        "always_on": round(always / count, 4),
        "in_prompt": round(in_prompt / count, 4),
        "profile_items_of_others": round(beside / count, 3),
        "marks_per_turn": round(marks / (count * (1 + len(between))), 4),
        "profile_items": round(size / count, 3),
    }


def _between(tree: Mapping[str, Any]) -> Iterator[str]:
    for entry in tree["distractor_conversations"]:
        said = [m["content"] for m in entry["conversation"] if m["role"] == "user"]
        yield from said[:_TURNS]
