"""A small complete run with real memory, search and prompts, and a fake model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generation.__main__ import main
from benchmarks.generation_tables import generation
from tests.unit.test_generation_loaders import locomo, longmemeval


class FakeModel(ThreadingHTTPServer):
    """Answers "a canoe" if the prompt has that turn; as a judge, accepts "a canoe"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.verdict = '{"reason": "it says so", "correct": %s}'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeModel

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        seen = body["messages"][-1]["content"]
        if "response_format" in body:
            right = "true" if "<answer>a canoe</answer>" in seen else "false"
            text = self.server.verdict.replace("%s", right)
            message = {"role": "assistant", "content": text}
            self._send("application/json", json.dumps(_chunk(message=message)))
            return
        text = "a canoe" if "I bought a canoe." in seen else "nothing"
        chunks = [_chunk(delta={"content": text}), {**_chunk(delta={}), "usage": _usage(seen)}]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None: ...


def _chunk(**choice: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "x",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0} | choice],
    }


def _usage(seen: str) -> dict[str, int]:
    words = len(seen.split())
    return {"prompt_tokens": words, "completion_tokens": 2, "total_tokens": words + 2}


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS__CHROMA__PROCESS", "false")
    monkeypatch.setenv("MEMOS__EMBEDDER__PROCESSES", "0")


@pytest.fixture
def model() -> Iterator[FakeModel]:
    server = FakeModel()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(folder: Path, tree: list[Any], model: FakeModel, *arguments: str) -> dict[str, Any]:
    data, out = folder / "data.json", folder / "record.json"
    data.write_text(json.dumps(tree), encoding="utf-8")
    given = ["--data", str(data), "--base-url", model.url, "--model", "fake", "--out", str(out)]
    assert main([*given, *arguments]) == 0
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return record


def row(record: dict[str, Any], way: str, kind: str = "all") -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in record["rows"] if (one["way"], one["kind"]) == (way, kind)
    )
    return found


@pytest.mark.slow
def test_memory_answers_questions_that_an_empty_prompt_does_not(
    tmp_path: Path, model: FakeModel
) -> None:
    notes = tmp_path / "answers.jsonl"
    record = run(tmp_path, locomo(), model, "--dataset", "locomo", "--answers", str(notes))
    assert row(record, "memory", "single-hop")["score"] == 1.0
    assert row(record, "evidence", "single-hop")["score"] == 1.0
    assert row(record, "full context", "single-hop")["score"] == 1.0
    assert row(record, "nothing")["score"] == 0.0
    assert row(record, "memory")["score_gain"] == row(record, "memory")["score"]
    assert row(record, "evidence")["left_out"] == {"no evidence named": 1}
    assert (
        row(record, "memory")["memory_tokens_mean"]
        > 0
        == row(record, "nothing")["memory_tokens_mean"]
    )
    assert record["config"]["runs"][-1]["model"] == "fake"
    assert all(body["temperature"] == 0 for body in model.asked)
    assert (
        len(notes.read_text(encoding="utf-8").splitlines())
        == record["config"]["runs"][-1]["answers"]
        == 15
    )
    assert "canoe" not in json.dumps(record), "no text of a data set in a record"
    assert "| **memory** (what memos_vllm finds) |" in generation(record)


@pytest.mark.slow
def test_a_history_that_does_not_fit_is_counted_and_not_cut(
    tmp_path: Path, model: FakeModel
) -> None:
    tree = locomo()
    tree[0]["conversation"]["session_1"].append(
        {"speaker": "Ben", "dia_id": "D1:3", "text": "So it goes. " * 60}
    )
    record = run(tmp_path, tree, model, "--dataset", "locomo", "--context", "250")
    assert row(record, "full context")["left_out"] == {"does not fit": 4}
    assert row(record, "full context")["questions"] == 0
    assert "does not fit" in generation(record)


@pytest.mark.slow
def test_a_judge_scores_where_token_overlap_does_not(tmp_path: Path, model: FakeModel) -> None:
    judged = ["--judge-url", model.url, "--judge-model", "fake judge"]
    tree = [longmemeval()[2] | {"answer": "Boats are liked."}]
    tree[0]["haystack_sessions"][0][0]["content"] = "I bought a canoe."
    tree[0]["question"] = "What did I buy, a boat or a canoe?"
    record = run(tmp_path, tree, model, "--dataset", "longmemeval", *judged)
    assert row(record, "memory")["judged"] == 1.0
    assert row(record, "nothing")["judged"] == 0.0
    assert "score" not in row(record, "memory")
    assert record["config"]["runs"][-1]["judge"] == "fake judge"
    asked = next(body for body in model.asked if "response_format" in body)
    assert asked["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert asked["temperature"] == 0


@pytest.mark.slow
def test_a_judge_without_a_verdict_is_counted(tmp_path: Path, model: FakeModel) -> None:
    model.verdict = "Yes!"
    judged = ["--judge-url", model.url, "--judge-model", "fake judge"]
    record = run(tmp_path, longmemeval()[2:3], model, "--dataset", "longmemeval", *judged)
    assert "judged" not in row(record, "memory")
    assert (
        record["config"]["runs"][-1]["judge_without_verdict"]
        == record["config"]["runs"][-1]["answers"]
    )


@pytest.mark.slow
def test_without_a_judge_questions_that_need_one_are_left_out(
    tmp_path: Path, model: FakeModel
) -> None:
    record = run(tmp_path, longmemeval(), model, "--dataset", "longmemeval")
    assert record["config"]["runs"][-1]["questions_left_out"] == {"only a judge can tell": 2}
    assert row(record, "memory")["questions"] == 2


@pytest.mark.slow
def test_a_run_replaces_only_the_earlier_run_of_the_same_model(
    tmp_path: Path, model: FakeModel
) -> None:
    run(tmp_path, locomo(), model, "--dataset", "locomo", "--model", "first")
    run(tmp_path, locomo(), model, "--dataset", "locomo", "--add")
    record = run(tmp_path, locomo(), model, "--dataset", "locomo", "--add")
    assert [one["run"] for one in record["config"]["runs"]] == ["locomo, first", "locomo, fake"]
    of_each = {"locomo, first": 0, "locomo, fake": 0}
    for one in record["rows"]:
        of_each[one["run"]] += 1
    assert of_each["locomo, first"] == of_each["locomo, fake"] > 4
    assert record["headline"]["locomo, first: nothing, score"] == 0.0
    assert generation(record).count("| --- |") == 2
