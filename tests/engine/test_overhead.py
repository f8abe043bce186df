"""The overhead benchmark, as a smoke run on the servers that are there anyway; it asserts no speed."""

from __future__ import annotations

from benchmarks.overhead import __main__ as overhead


def test_pairs_are_measured_on_both_servers(server, bare, keys, monkeypatch):
    monkeypatch.setattr(overhead, "IDLE_SECONDS", 0.0)
    plain = overhead.sender(bare, None, {})
    cases = {
        "memory off": (overhead.sender(server, keys.acme, {"memory": {"enabled": False}}), plain),
        "turn remembered": (overhead.fresh_person(server, keys.acme), plain),
    }
    rows = overhead.measure(cases, pairs=2, words=20)
    assert [row["case"] for row in rows] == list(cases)
    assert all(row["pairs"] == 2 and row["ttft_ratio_median"] > 0 for row in rows)
