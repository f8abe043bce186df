"""Metrics of the benchmarks, their data, and small complete runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.locomo_retrieval.__main__ import DATA
from benchmarks.locomo_retrieval.dataset import DataUnavailable, load, parse_evidence
from benchmarks.locomo_retrieval.metrics import (
    distinct,
    ndcg_at,
    recall_at,
    reciprocal_rank,
    score,
)
from benchmarks.record import ROOT
from benchmarks.retrieval_general.fit import Example, fit
from memos_vllm.plaintext.search.fusion import CHANNELS, LIFTS, Signals
from tests.effort import long

# -- metrics --------------------------------------------------------------------------------------


def test_recall_is_the_share_of_evidence_among_the_first_k() -> None:
    ranked = ["a", "x", "b", "y"]
    assert recall_at(ranked, ["a", "b"], 1) == 0.5
    assert recall_at(ranked, ["a", "b"], 3) == 1.0
    assert recall_at(ranked, ["z"], 4) == 0.0
    assert recall_at([], ["z"], 4) == 0.0


def test_reciprocal_rank_looks_at_the_first_evidence_only() -> None:
    assert reciprocal_rank(["x", "a", "b"], ["a", "b"]) == 0.5
    assert reciprocal_rank(["x"], ["a"]) == 0.0


def test_ndcg_is_one_for_evidence_in_front_and_discounts_what_comes_later() -> None:
    assert ndcg_at(["a", "b", "x"], ["b", "a"], 10) == 1.0
    assert ndcg_at(["x", "a"], ["a"], 10) == pytest.approx(0.6309, abs=1e-4)
    # Three pieces of evidence cannot all be among the first two: two are already ideal.
    assert ndcg_at(["a", "b"], ["a", "b", "c"], 2) == 1.0


def test_session_level_ranks_distinct_sessions_in_the_order_of_their_best_turn() -> None:
    session_of = {"D1:1": "s1", "D1:2": "s1", "D2:1": "s2", "D3:1": "s3"}
    scores = score(["D1:1", "D1:2", "D3:1", "D2:1"], ["D2:1"], session_of)
    assert distinct(["s1", "s1", "s3"]) == ["s1", "s3"]
    assert scores["session_mrr"] == pytest.approx(1 / 3, abs=1e-4)
    assert scores["turn_mrr"] == 0.25
    assert scores["session_recall_at_3"] == 1.0
    assert scores["turn_recall_at_3"] == 0.0


# -- fit ------------------------------------------------------------------------------------------


def test_a_fit_prefers_the_signal_that_finds_the_evidence_and_has_no_negative_weight() -> None:
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(60):
        noise = {name: rng.random(30, dtype=np.float32) for name in CHANNELS}
        noise["dense_turn"][7] = 1.0
        noise["coverage"][7] = 0.0
        lifts = {name: np.zeros(30, dtype=np.float32) for name in LIFTS}
        signals = Signals(
            channels=noise,
            lifts=lifts,
            sessions=np.arange(30),
            matched=0.5,
            is_reply=np.zeros(30, dtype=np.float32),
            words=noise["lexical_turn"],
            meaning=noise["dense_turn"],
        )
        examples.append(Example(signals, (7,)))
    weights = fit(examples)
    assert weights.dense_turn > 1.0 > weights.lexical_turn
    assert weights.coverage == 0.0
    fixed = fit(examples, {"reply_penalty": 3.0, "lexical_turn": 2.0})
    assert (fixed.reply_penalty, fixed.lexical_turn) == (3.0, 2.0)
    assert fixed.dense_turn > weights.lexical_turn


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "found", "dropped"),
    [
        (["D8:6; D9:17"], ["D8:6", "D9:17"], 0),
        (["D9:1 D4:4 D4:6"], ["D9:1", "D4:4", "D4:6"], 0),
        (["D:11:26"], ["D11:26"], 0),
        (["D30:05"], ["D30:5"], 0),
        (["D8:6", "D8:6"], ["D8:6"], 0),
        (["D8:6", "D"], ["D8:6"], 1),
        (["D99:1"], [], 1),
        ([], [], 0),
    ],
)
def test_malformed_evidence_is_read_and_unknown_turns_are_dropped(
    raw: list[str], found: list[str], dropped: int
) -> None:
    turns = ("D8:6", "D9:17", "D9:1", "D4:4", "D4:6", "D11:26", "D30:5")
    assert parse_evidence(raw, dict.fromkeys(turns)) == (found, dropped)


def test_questions_that_cannot_be_scored_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = load(_write_conversation(tmp_path))
    (conversation,) = dataset.conversations
    assert [question.category for question in conversation.questions] == [4, 4, 1, 2]
    assert conversation.questions[2].evidence == ("D1:3", "D2:2")
    assert dataset.left_out == {"no evidence given": 1, "evidence names no existing turn": 1}
    assert dataset.ids_dropped == 1
    assert list(conversation.sessions) == ["session_1", "session_2"]
    assert conversation.turns[0].time is not None
    assert conversation.turns[0].time.isoformat() == "2023-05-08T13:56:00+00:00"


@pytest.mark.skipif(not DATA.exists(), reason="LoCoMo is not beside this checkout")
def test_locomo_has_the_categories_of_its_paper() -> None:
    """4 is single-hop and 1 multi-hop: only questions of 1 need several turns."""
    questions = [question for one in load(DATA).conversations for question in one.questions]
    by_category = {
        category: [len(q.evidence) for q in questions if q.category == category]
        for category in (1, 2, 3, 4)
    }
    assert sum(size > 1 for size in by_category[1]) / len(by_category[1]) > 0.9
    assert sum(size > 1 for size in by_category[4]) / len(by_category[4]) < 0.1
    assert len(questions) > 1500


def test_a_missing_or_foreign_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="--data PATH"):
        load(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text('[{"messages": []}]', encoding="utf-8")
    with pytest.raises(DataUnavailable, match="form"):
        load(tmp_path / "other.json")


# -- complete runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_locomo_retrieval_without_its_data_says_where_to_get_it(tmp_path: Path) -> None:
    answer = _run("locomo_retrieval", "--data", "no/such/file.json")
    assert answer.returncode == 2
    assert "--data PATH" in answer.stderr


@pytest.mark.slow
def test_locomo_retrieval_quick_finds_evidence_through_the_real_system(tmp_path: Path) -> None:
    data, out = _write_conversation(tmp_path), tmp_path / "record.json"
    answer = _run("locomo_retrieval", "--data", str(data), "--quick", "--out", str(out))
    assert answer.returncode == 0, answer.stderr
    headline = json.loads(answer.stdout.splitlines()[-1])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"turn_recall_at_10", "bm25_turn_recall_at_10", "query_ms_p50"} <= set(headline)
    assert record["headline"] == headline
    assert headline["turn_recall_at_10"] == 1.0
    systems = {row["system"] for row in record["rows"] if row["part"] == "search"}
    assert systems == {"bm25_plain", "bm25", "dense", "dense_named", "ours"}
    assert record["config"]["questions"] == 4
    assert {row["chunk_tokens"] for row in record["rows"] if row["part"] == "chunks"} >= {
        "turn",
        512,
    }
    assert "<polyline" in out.with_suffix(".svg").read_text(encoding="utf-8")


@long
@pytest.mark.slow
def test_owners_quick_finds_every_vector_in_our_layout(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    answer = _run("owners", "--quick", "--out", str(out))
    assert answer.returncode == 0, answer.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    ours = next(row for row in record["rows"] if row["layout"] == "buckets")
    assert ours["foreign_vectors"] == ours["filling_foreign_vectors"] == 0
    assert "per_owner_bounded_error_share" in record["headline"]


@long
@pytest.mark.slow
def test_first_search_quick_compares_starts_without_and_with_derived_files(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    answer = _run("first_search", "--quick", "--out", str(out))
    assert answer.returncode == 0, answer.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [row["derived_files"] for row in record["rows"]] == [False, True]
    assert record["headline"]["first_ms"] < record["headline"]["first_ms_without_files"]


def _run(benchmark: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def _write_conversation(folder: Path) -> Path:
    """A tiny conversation in LoCoMo's format, with its kinds of malformed data."""
    conversation: dict[str, Any] = {
        "speaker_a": "Ada",
        "speaker_b": "Ben",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": _turns(
            1, "Hi Ben, long time!", "Hello Ada, I adopted a parrot.", "I bought a red canoe."
        ),
        "session_2_date_time": "9:05 am on 1 June, 2023",
        "session_2": _turns(
            2, "My parrot learned to whistle.", "We paddled down the Loire in June."
        ),
    }
    questions = [
        {"question": "Which bird did Ben adopt?", "evidence": ["D1:2"], "category": 4},
        {"question": "What colour is the canoe of Ada?", "evidence": ["D1:3"], "category": 4},
        {"question": "Where did the canoe go?", "evidence": ["D1:3; D2:02", "D7:1"], "category": 1},
        {"question": "When did Ben paddle the Loire?", "evidence": ["D2:2"], "category": 2},
        {"question": "Is Ben fond of animals?", "evidence": [], "category": 3},
        {"question": "Who sings?", "evidence": ["D"], "category": 3},
        {"question": "What did Ada never say?", "evidence": ["D1:1"], "category": 5},
    ]
    path = folder / "tiny.json"
    sample = {"sample_id": "tiny", "conversation": conversation, "qa": questions}
    path.write_text(json.dumps([sample]), encoding="utf-8")
    return path


def _turns(session: int, *texts: str) -> list[dict[str, str]]:
    return [
        {"speaker": "Ada" if number % 2 else "Ben", "dia_id": f"D{session}:{number}", "text": text}
        for number, text in enumerate(texts, 1)
    ]
