"""The overhead benchmark as a smoke run on servers of other tests; it asserts no speed."""

from __future__ import annotations

from benchmarks.overhead import __main__ as overhead
from benchmarks.overhead import slices
from tests.effort import long


@long
def test_pairs_are_measured_on_both_servers(server, bare, keys, monkeypatch):
    monkeypatch.setattr(slices, "IDLE_SECONDS", 0.0)
    servers = overhead.Servers(bare=bare, second=bare, ours=server, key=keys.acme)
    measured = slices.measure(0, overhead.cases_of(servers), overhead.QUICK)
    assert {len(each.ours) for each in measured} == {len(each.bare) for each in measured} == {2}
    made = overhead.record(measured, overhead.QUICK, rounds=1, quick=True)
    assert made.rows[0]["case"] == overhead.NOISE
    assert len(made.rows) == 4
    for row in made.rows:
        assert (row["pairs"], row["slices"], row["dropped"]) == (2, 1, 0)
        assert row["ttft_ratio_median"] > 0
        assert row["tpot_ratio_median"] > 0
    assert made.config["kv_connector"] == "MemosConnector"
    assert made.headline["ttft_ratio_memory_off"] == made.rows[1]["ttft_ratio_median"]


def test_slices_of_a_slow_machine_are_dropped_from_both_servers():
    def one(start: int, reference: float, ours: float) -> slices.Slice:
        timing = [slices.Timing(ours, 0.02)]
        return slices.Slice(start, "a case", reference, timing, [slices.Timing(0.1, 0.01)])

    measured = [one(0, 1.0, 0.2), one(0, 1.0, 0.2), one(1, 1.2, 0.3), one(1, 1.3, 0.6)]
    (row,) = slices.rows_of(measured)
    assert (row["pairs"], row["slices"], row["dropped"]) == (4, 4, 0)
    (row,) = slices.rows_of([*measured, one(1, 1.6, 0.9)])
    assert (row["pairs"], row["slices"], row["dropped"]) == (4, 5, 1)
    assert row["ttft_ratio_by_start"] == [2.0, 4.5]
    assert row["tpot_ratio_median"] == 2.0
