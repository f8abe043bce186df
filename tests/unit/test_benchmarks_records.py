"""Benchmark records are complete, and the tables of the documents follow from them."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from benchmarks.extraction.__main__ import LoadGenerator
from benchmarks.kv_tables import extraction
from benchmarks.readme_tables import DOCUMENTS, TABLES, TableError, fill, main, record_of
from benchmarks.record import FIELDS, RESULTS, Record, absolute_paths

HEADLINES = {
    "locomo_retrieval": {
        "turn_recall_at_10",
        "session_recall_at_10",
        "turn_mrr",
        "bm25_turn_recall_at_10",
        "dense_turn_recall_at_10",
        "query_ms_p50",
        "query_ms_p50_10000_items",
        "held_out_turn_recall_at_10",
        "held_out_session_recall_at_10",
    },
    "owners": {
        "search_ms_p50",
        "search_ms_p99",
        "rss_mb",
        "file_handles",
        "per_owner_bounded_error_share",
    },
}


# -- records --------------------------------------------------------------------------------------


def test_a_record_says_what_ran_where_and_on_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record("overhead", options="--quick", headline={"a": 1.5}, rows=[{"case": "x"}])
    written = record.finish(quick=True, out=tmp_path / "r.json")
    data = json.loads(written.read_text(encoding="utf-8"))
    assert set(data) == set(FIELDS)
    assert data["command"] == "python -m benchmarks.overhead --quick"
    assert set(data["machine"]) == {"cpu", "cores", "memory_gib", "gpu"}
    assert {"python", "memos_vllm", "torch", "chromadb", "bm25s"} <= set(data["versions"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"a": 1.5}


def test_a_quick_run_leaves_the_results_untouched() -> None:
    before = sorted(RESULTS.glob("*"))
    written = Record("no_such_benchmark").finish(quick=True)
    assert RESULTS not in written.parents
    assert sorted(RESULTS.glob("*")) == before


def test_a_record_with_an_absolute_path_is_refused(tmp_path: Path) -> None:
    record = Record("overhead", config={"data": ["see /home/someone/data.json"]})
    with pytest.raises(ValueError, match="absolute path"):
        record.finish(out=tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []
    harmless = {"rate": "tokens/s", "p50 / p99": 1, "version": "2.13.0+cpu", "url": "a/b"}
    assert list(absolute_paths(harmless)) == []


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_results_are_complete_records(file: Path) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    required = set(FIELDS) - {"config"}
    assert required <= set(data)
    assert data["benchmark"] == file.stem
    module = re.match(r"python -m (benchmarks\.\w+)", data["command"])
    assert module is not None
    assert importlib.util.find_spec(f"{module[1]}.__main__") is not None
    assert data["rows"]
    assert all(isinstance(value, int | float) for value in data["headline"].values())
    assert HEADLINES.get(file.stem, set()) <= set(data["headline"])
    assert list(absolute_paths(data)) == []
    assert "--quick" not in data["command"]


# -- tables ---------------------------------------------------------------------------------------


def test_tables_are_written_between_their_marks_and_only_there(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    before = "# T\n\n<!-- table:overhead -->\nold\n<!-- /table:overhead -->\n\nend\n"
    readme.write_text(before, encoding="utf-8")
    _write_overhead(tmp_path, 1.004)
    options = [str(readme), "--results", str(tmp_path)]
    assert main([*options, "--check"]) == 1
    assert readme.read_text(encoding="utf-8") == before
    assert main(options) == 0
    text = readme.read_text(encoding="utf-8")
    assert "| memory off | 1.004 | 0.990 to 1.020 | 0.995 to 1.013 | 1.200 |" in text
    assert "old" not in text
    assert text.startswith("# T\n\n<!-- table:overhead -->\n")
    assert text.endswith("<!-- /table:overhead -->\n\nend\n")
    assert "some CPU" in text
    assert "python -m benchmarks.overhead" in text
    assert main([*options, "--check"]) == 0
    assert fill(text, tmp_path) == text
    _write_overhead(tmp_path, 1.1)
    assert main([*options, "--check"]) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_a_document_shows_what_the_results_say(document: Path) -> None:
    assert main([str(document), "--check"]) == 0, "run `make readme-tables`"


def test_the_check_covers_every_document_that_is_written(tmp_path: Path) -> None:
    _write_overhead(tmp_path, 1.004)
    table = "<!-- table:overhead -->\nold\n<!-- /table:overhead -->\n"
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    for document in (first, second):
        document.write_text(table, encoding="utf-8")
    options = [str(first), str(second), "--results", str(tmp_path)]
    assert main(options) == 0
    assert "old" not in first.read_text(encoding="utf-8") + second.read_text(encoding="utf-8")
    second.write_text(table, encoding="utf-8")
    assert main([*options, "--check"]) == 1


def test_every_table_has_a_place_in_a_document() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert [name for name in TABLES if text.count(f"<!-- table:{name} -->") != 1] == []


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_without_results_says_so(name: str, tmp_path: Path) -> None:
    text = f"<!-- table:{name} -->\n<!-- /table:{name} -->"
    assert "Not measured yet" in fill(text, tmp_path)


@pytest.mark.parametrize(
    "name", sorted(name for name in TABLES if (RESULTS / f"{record_of(name)}.json").exists())
)
def test_the_committed_results_make_a_table(name: str) -> None:
    made = fill(f"<!-- table:{name} -->\n<!-- /table:{name} -->", RESULTS)
    blocks = [part.splitlines() for part in made.split("\n\n") if part.startswith("|")]
    blocks += [
        part.splitlines()[1:] for part in made.split("\n\n") if part.startswith("<!-- table")
    ]
    tables = [[line for line in rows if line.startswith("|")] for rows in blocks]
    assert tables
    for rows in tables:
        assert len(rows) > 2
        assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table:overhead -->\n",
        "<!-- /table:overhead -->\n",
        "<!-- table:overhead -->\n<!-- /table:owners -->",
        "<!-- table:no_such -->\n<!-- /table:no_such -->",
    ],
)
def test_a_broken_or_unknown_mark_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(TableError):
        fill(text, tmp_path)


def test_failed_requests_of_a_load_generator_are_counted_named_and_shown() -> None:
    """They were suppressed, and a question beside no load counted as one beside it."""
    load = LoadGenerator()
    replies = iter([httpx.Response(200), httpx.Response(503), httpx.ReadError("reset")])

    def answer(request: httpx.Request) -> httpx.Response:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    transport = httpx.MockTransport(answer)
    server = SimpleNamespace(http=lambda: httpx.Client(base_url="http://test", transport=transport))
    for _ in range(3):
        load.send(SimpleNamespace(server=server), {})
    summary = load.summary()
    assert summary == {
        "load_requests": 3,
        "load_requests_failed": 2,
        "load_errors": {"status 503": 1, "ReadError": 1},
    }
    row = {"while": "a person is answered", "over_alone": 1.1}
    shown = extraction({"rows": [row | summary], "config": {"repetitions": 3}})
    assert "load generator that failed: 2 of 3." in shown


def test_an_error_of_the_load_generator_itself_is_not_counted_as_a_failed_request() -> None:
    def http() -> httpx.Client:
        raise TypeError("a bug")

    load = LoadGenerator()
    with pytest.raises(TypeError, match="a bug"):
        load.send(SimpleNamespace(server=SimpleNamespace(http=http)), {})
    assert not load.errors


def _write_overhead(folder: Path, median: float) -> None:
    row = {
        "case": "memory off",
        "ttft_ratio_median": median,
        "ttft_ratio_p25": 0.99,
        "ttft_ratio_p75": 1.02,
        "ttft_ratio_by_start": [0.995, 1.013],
        "tpot_ratio_median": 1.2,
        "tpot_ratio_p25": 1.1,
        "tpot_ratio_p75": 1.3,
        "tpot_ratio_by_start": [1.19, 1.21],
        "pairs": 40,
    }
    record = {
        "benchmark": "overhead",
        "command": "python -m benchmarks.overhead",
        "date": "2026-01-02T03:04:05+00:00",
        "git_commit": None,
        "machine": {"cpu": "some CPU", "cores": 2, "memory_gib": 8.0, "gpu": None},
        "versions": {"python": "3.11.0"},
        "headline": {},
        "config": {
            "rounds": 2,
            "requests": 3,
            "reply_tokens": 16,
            "slices_dropped": 1,
            "slices_measured": 8,
        },
        "rows": [row],
    }
    (folder / "overhead.json").write_text(json.dumps(record), encoding="utf-8")
