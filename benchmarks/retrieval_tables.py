"""Tables of retrieval: LoCoMo, and layouts of the vector store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

LOCOMO_SYSTEMS = {
    "ours_held_out": "**memos_vllm**, weights fitted on the other nine conversations",
    "ours": "memos_vllm, default weights (rounded from a fit on all ten)",
    "bm25_plain": "BM25, library defaults",
    "bm25": "BM25, `Speaker: text`, stemmed, long stop-word list",
    "dense": "MiniLM cosine",
    "dense_named": "MiniLM cosine, `Speaker: text`",
    "lexical_turn_only": "ours, BM25 of the turn alone",
    "lexical_window_only": "ours, BM25 of the turn behind its predecessor alone",
    "dense_turn_only": "ours, MiniLM of the turn alone, names left out of the question",
    "four_way": "ours, both BM25 and both MiniLM, equal weights",
    "four_way_session_prior": "ours, four equal + session prior",
    "four_way_speaker_boost": "ours, four equal + speaker boost",
    "four_way_both": "ours, four equal + both (weights of version 0.1)",
    "four_way_both_coverage": "ours, four equal + both + coverage",
    "without_coverage": "ours without coverage",
    "without_session_coverage": "ours without session coverage",
    "without_near_coverage": "ours without coverage by neighbours",
    "without_session_prior": "ours without session prior",
    "without_speaker_boost": "ours without speaker boost",
    "without_time_boost": "ours without time boost",
    "without_when_boost": "ours without *when* boost",
    "without_question_penalty": "ours without question penalty",
}
GENERAL_SYSTEMS = {
    "ours_left_out": "**memos_vllm**, weights fitted on the other data sets",
    "ours": "memos_vllm, default weights (rounded from a fit on all)",
    "bm25": "BM25, stemmed",
    "cosine": "cosine, granite-30m",
    "cosine_minilm": "cosine, MiniLM",
    "bm25_and_cosine": "BM25 + cosine, min-max scaled",
}
LAYOUTS = {
    "per_owner_unbounded": "a collection per owner, all indexes open",
    "per_owner_bounded": "a collection per owner, 128 indexes open",
    "buckets": "**buckets (ours)**, one view, as many vectors as above",
    "buckets_two_views": "**buckets (ours)**, both views, twice the vectors",
}


def retrieval_general(record: Mapping[str, Any]) -> str:
    """Every part, over all questions and by category."""
    return f"{_general(record)}\n\n{_general_note(record)}"


def retrieval_general_short(record: Mapping[str, Any]) -> str:
    """A row for each system, a column for each part: turn recall@5 / session recall@10."""
    overall = [row for row in record["rows"] if row["category"] == "all"]
    parts = list(dict.fromkeys(row["part"] for row in overall))
    found = {(row["part"], row["system"]): row for row in overall}
    lines = [
        [
            label,
            *(
                f"{100 * row['turn_recall_at_5']:.1f} / {100 * row['session_recall_at_10']:.1f}"
                for row in (found[part, system] for part in parts)
            ),
        ]
        for system, label in GENERAL_SYSTEMS.items()
    ]
    header = ["Turn recall@5 / session recall@10, percent", *parts]
    return f"{table_of(header, lines)}\n\n{_general_note(record)}"


def _general(record: Mapping[str, Any]) -> str:
    lines = []
    found = {(row["part"], row["category"], row["system"]): row for row in record["rows"]}
    for part, category in dict.fromkeys((row["part"], row["category"]) for row in record["rows"]):
        if category != "all" and part == "PrefEval":
            continue
        for system, label in GENERAL_SYSTEMS.items():
            row = found.get((part, category, system))
            if row is None or (category != "all" and not system.startswith("ours")):
                continue
            names = ("turn_recall_at_5", "turn_recall_at_10", "turn_mrr", "session_recall_at_10")
            cells = [f"{100 * row[name]:.1f}" for name in names]
            shown = part if category == "all" else f"{part}: {category}"
            lines.append([f"{shown} ({row['questions']})", label, *cells])
    header = ["Percent (questions)", "", "turn recall@5", "turn recall@10", "turn MRR"]
    return table_of([*header, "session recall@10"], lines)


def _general_note(record: Mapping[str, Any]) -> str:
    return (
        "Each data set is searched with weights that were fitted on the other data sets alone; all systems "
        "search the same turns in one run. LongMemEval and PrefEval are halves of their public sets; PrefEval "
        "is one preference in front of twelve unrelated conversations."
    )


def locomo_retrieval(record: Mapping[str, Any]) -> str:
    by_system = _by_system(record)
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
    note = (
        f"{_locomo_size(record)} An image counts as its caption in the data set. "
        f"{_locomo_scale(record)}\n\n{_locomo_chunks(record)}"
    )
    return f"{table_of(header, lines)}\n\n{note}"


def _by_system(record: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Rows of the search, by system and category."""
    by_system: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in record["rows"]:
        if row["part"] == "search":
            by_system.setdefault(row["system"], {})[row["category"]] = row
    return by_system


def _locomo_size(record: Mapping[str, Any]) -> str:
    config = record["config"]
    return (
        f"LoCoMo, categories 1 to 4: {config['questions']} questions over {config['turns']} turns of "
        f"{config['conversations']} conversations."
    )


def _locomo_scale(record: Mapping[str, Any]) -> str:
    large = next(row for row in record["rows"] if row["part"] == "scale")
    return (
        f"One person with {large['items']:,} items: embedding and search take "
        f"{large['search_ms_p50']:.0f} ms (p50), {large['search_ms_p99']:.0f} ms (p99); the first search "
        f"after a start, which reads the index, {large['first_search_ms'] / 1000:.1f} s."
    )


def _locomo_chunks(record: Mapping[str, Any]) -> str:
    """Evidence recall and injected tokens, by chunk size and k."""
    rows = [row for row in record["rows"] if row["part"] == "chunks"]
    ks = list(dict.fromkeys(row["k"] for row in rows))
    lines = []
    for size in dict.fromkeys(row["chunk_tokens"] for row in rows):
        of_size = [row for row in rows if row["chunk_tokens"] == size]
        cells = [f"{100 * r['evidence_recall']:.1f} ({r['injected_tokens']:.0f})" for r in of_size]
        lines.append(["a turn" if size == "turn" else f"{size} tokens", *cells])
    header = ["Chunk size: evidence recall (tokens injected)", *(f"k={k}" for k in ks)]
    return table_of(header, lines)


def owners(record: Mapping[str, Any]) -> str:
    lines = [_layout(row) for row in record["rows"]]
    header = [
        "Layout",
        "owners",
        "fill, s",
        "new owner at the end, ms",
        "open, s",
        "search p50 / p99, ms",
        "peak RSS, MB",
        "peak file handles",
        "disk, MB",
        "searches that failed or lacked vectors",
    ]
    return table_of(header, lines)


def _layout(row: Mapping[str, Any]) -> list[str]:
    stopped = " (stopped there)" if row["stopped_early"] else ""
    searches = 2 * row["searches"]
    wrong = round(row["searches"] * (row["error_share"] + row["filling_error_share"]))
    return [
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


def _or_dash(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
