"""`python -m benchmarks.fairness [--seconds 20] [--quick]`: TTFT beside a tenant at full load.

alone     tenant B with 4 streams
equal     tenants A and B with 4 streams each: B's share is half of the engine
beside    A with 30 streams, B with 4
Each with `governance.fairness` off (vLLM's own order of arrival) and on, each setting on a server of its
own; the phases alternate, and a ratio is within one repetition.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fairness.load import PROMPT_SENTENCES, REPLY_TOKENS, Streams
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server

OWN, FULL = 4, 30
SETTLING_SECONDS = 4.0
PHASES = {"alone": 0, "equal": OWN, "beside": FULL}
"""Streams of tenant A."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--repetitions", type=int, default=3)
    output_arguments(parser)
    arguments = parser.parse_args()
    seconds = 4.0 if arguments.quick else arguments.seconds
    repetitions = 1 if arguments.quick else arguments.repetitions
    record = Record(
        "fairness",
        config={
            "seconds": seconds,
            "repetitions": repetitions,
            "streams_of_b": OWN,
            "streams_of_a": PHASES,
            "prompt_sentences": PROMPT_SENTENCES,
            "reply_tokens_at_most": REPLY_TOKENS,
        },
    )
    for fairness in ("off", "on"):
        record.rows += measured(fairness, seconds, repetitions)
    for fairness in ("off", "on"):
        rows = [row for row in record.rows if row["fairness"] == fairness]
        beside = {row["repetition"]: row for row in rows if row["phase"] == "beside"}
        equal = {row["repetition"]: row for row in rows if row["phase"] == "equal"}
        alone = [row for row in rows if row["phase"] == "alone"]
        for which in ("p50", "p95"):
            ratios = [beside[n][f"ttft_{which}"] / equal[n][f"ttft_{which}"] for n in equal]
            name = f"ttft_{which}_beside_over_equal_{fairness}"
            record.headline[name] = round(statistics.median(ratios), 3)
        rates = [row["b_requests_per_second"] for row in alone]
        record.headline[f"alone_requests_per_second_{fairness}"] = round(
            statistics.median(rates), 3
        )
    record.finish(quick=arguments.quick, out=arguments.out)


def measured(fairness: str, seconds: float, repetitions: int) -> list[dict[str, Any]]:
    policy = "priority" if fairness == "on" else "fcfs"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        keys = made_keys(home)
        server = Server(
            Path(name),
            home=home,
            environment={"MEMOS__GOVERNANCE__FAIRNESS__ENABLED": str(fairness == "on").lower()},
            flags=("--scheduling-policy", policy),
        )
        with server.running() as running:
            phase(running, keys, "equal", min(seconds, 5.0))  # warm-up
            for repetition in range(repetitions):
                for which in PHASES:
                    row = phase(running, keys, which, seconds)
                    rows.append({"fairness": fairness, "repetition": repetition, **row})
    return rows


def phase(server: Server, keys: Sequence[str], which: str, seconds: float) -> dict[str, Any]:
    full = Streams(server, keys[0], PHASES[which])
    own = Streams(server, keys[1], OWN)
    with full.running(), own.running():
        time.sleep(SETTLING_SECONDS)
        began = time.perf_counter()
        time.sleep(seconds)
        ended = time.perf_counter()
    found = sorted(ttft for sent, ttft in own.ttfts if began <= sent <= ended)
    others = [ttft for sent, ttft in full.ttfts if began <= sent <= ended]
    return {
        "phase": which,
        "requests": len(found),
        "ttft_p50": round(float(np.percentile(found, 50)), 4),
        "ttft_p95": round(float(np.percentile(found, 95)), 4),
        "b_requests_per_second": round(len(found) / seconds, 3),
        "a_requests_per_second": round(len(others) / seconds, 3),
        "a_ttft_p95": round(float(np.percentile(others, 95)), 4) if others else None,
        "refused": full.refused + own.refused,
    }


def made_keys(home: Path) -> list[str]:
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    keys = [system.keys.create(tenant, Role.WRITER)[1] for tenant in ("loaded", "measured")]
    system.close()
    return keys


if __name__ == "__main__":
    main()
