"""Cached share of the prompt over ten turns with retrieval: our layout, and the system prompt."""

from __future__ import annotations

from typing import Any

from benchmarks.ttft.chat import WORDS, Bench

TOPICS = ("bicycle", "piano", "garden", "cat", "job", "holiday", "sister", "kitchen", "car", "book")
SYSTEM = "You are a helpful assistant. Answer from what you remember of the person."
TOP_K = 6
REPLY_TOKENS = 120


def ten_turns(bench: Bench) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Share of prompt tokens that were cached, by turn and layout."""
    facts = [
        f"My {topic} has the {word} number {i}{len(word)}."
        for i, topic in enumerate(TOPICS)
        for word in WORDS[:8]
    ]
    rows: list[dict[str, Any]] = []
    for layout in ("ours", "system prompt"):
        person = f"turns-{layout.partition(' ')[0]}"
        body = {
            "meta": {"name": "facts", "person": person},
            "payload": {
                "type": "explicit",
                "format": "text",
                "content": [{"type": "fact", "text": fact} for fact in facts],
            },
        }
        headers = {"X-Memos-User": person}
        bench.http.post("/v1/memory/cubes", json=body, headers=headers).raise_for_status()
        history: list[dict[str, str]] = []
        for number, topic in enumerate(TOPICS):
            question = {"role": "user", "content": f"Which numbers does my {topic} have?"}
            system, memory = SYSTEM, {"write": False, "top_k": TOP_K}
            if layout != "ours":
                found = bench.http.post(
                    "/v1/memory/search",
                    json={"query": question["content"], "top_k": TOP_K},
                    headers=headers,
                ).json()["results"]
                system += "\n" + "\n".join(hit["item"]["text"] for hit in found)
                memory = {"enabled": False}
            messages = [{"role": "system", "content": system}, *history, question]
            reply = bench.ask(
                person,
                "",
                [],
                messages=messages,
                memory=memory,
                max_tokens=REPLY_TOKENS,
                ignore_eos=True,
            )
            usage = reply["usage"]
            rows.append(
                {
                    "layout": layout,
                    "turn": number + 1,
                    "prompt_tokens": usage["prompt_tokens"],
                    "cached_tokens": (usage["prompt_tokens_details"] or {}).get("cached_tokens"),
                    "first_token_ms": (reply.get("memory") or {})
                    .get("steps_ms", {})
                    .get("first_token"),
                }
            )
            answer = reply["choices"][0]["message"]["content"]
            history += [question, {"role": "assistant", "content": answer}]
    headline = {
        f"ten_turn_cached_share_{layout.replace(' ', '_')}": _share(rows, layout)
        for layout in ("ours", "system prompt")
    }
    return headline, rows


def _share(rows: list[dict[str, Any]], layout: str) -> float:
    of_layout = [row for row in rows if row["layout"] == layout]
    cached = sum(row["cached_tokens"] or 0 for row in of_layout)
    prompt: int = sum(row["prompt_tokens"] for row in of_layout)
    return round(cached / prompt, 4)
