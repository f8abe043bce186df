"""`python -m benchmarks.crash [--runs 100] [--seed 0] [--victims database,LMCache] [--quick]`: kills under load.

In each run clients chat, store, change, delete, erase, search and upload; at a random moment after the first
acknowledged write, one process gets SIGKILL: the API process, the engine core, its worker, the encoder, the document
parser or Chroma's.  The server replaces the last three itself; after the others it is started again.  Or a service
that the server uses gets it, with all its processes, and is started again seconds later, while the server runs on:
PostgreSQL, LMCache.  Those runs have a server of their own, on both, and are left out where they are not installed.
Then everything that a reply had acknowledged is compared with what the server has.  A stream that ended in an error,
or was cut, acknowledges nothing.

lost      acknowledged writes that are gone
back      acknowledged deletions that are there, in the vault, in a search or in LMCache; KV loaded for another person
doubled   writes that are there twice
half      batches in part, cubes that do not open or whose payload and items differ
index     differences between vectors and vault
audit     runs whose audit log does not verify
orphan    processes that outlive those they depend on
stuck     turns, changes to index or erasures that are not done within 90 s; KV that is not loaded again
refused   requests that failed before the kill, or for want of LMCache
unclear   answers without a database that are neither degraded and say so, nor a 503 in their route's envelope
wrong     replies with loaded KV that differ from computed ones
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.crash.checks import KINDS
from benchmarks.crash.load import CLIENTS, WEIGHTS
from benchmarks.crash.runs import AWAY_SECONDS, LATEST_SECONDS, Crashes, order, shown
from benchmarks.crash.services import SERVICES, Services, missing
from benchmarks.crash.victims import VICTIMS
from benchmarks.record import Record, output_arguments


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", type=_victims, default=VICTIMS, help=", ".join(VICTIMS))
    output_arguments(parser)
    arguments = parser.parse_args()
    victims: Sequence[str] = arguments.victims
    absent = missing()
    if absent is not None and set(victims) & set(SERVICES):
        print(f"left out: {', '.join(SERVICES)}: {absent}", flush=True)
        victims = [victim for victim in victims if victim not in SERVICES]
    if not victims:
        parser.error("no victim is left")
    runs = len(victims) if arguments.quick else arguments.runs
    chosen = "" if tuple(victims) == VICTIMS else f' --victims "{",".join(victims)}"'
    record = Record(
        "crash",
        options=f"--runs {runs} --seed {arguments.seed}{chosen}",
        config={
            "runs": runs,
            "seed": arguments.seed,
            "victims": list(victims),
            "clients": CLIENTS,
            "weights": WEIGHTS,
            "killed_after_seconds_at_most": LATEST_SECONDS,
            "service_away_seconds_at_most": AWAY_SECONDS,
        },
    )
    numbered = list(enumerate(order(runs, arguments.seed, victims)))
    for is_service in (False, True):
        part = [each for each in numbered if (each[1] in SERVICES) == is_service]
        if part:
            record.rows += _rows(part, arguments.seed, with_services=is_service)
    for kind in KINDS:
        found = [row["violations"].get(kind, 0) for row in record.rows]
        record.headline[f"violations_{kind}"] = sum(found)
    for victim in VICTIMS:
        seconds = [
            row["answers_again_seconds"] for row in record.rows if row.get("victim") == victim
        ]
        if seconds:
            name = f"answers_again_seconds_{victim.lower().replace(' ', '_')}"
            record.headline[name] = round(statistics.median(seconds), 2)
    record.finish(quick=arguments.quick, out=arguments.out)


def _rows(
    numbered: Sequence[tuple[int, str]], seed: int, with_services: bool
) -> list[dict[str, Any]]:
    """Runs against one server, and a row about all of them."""
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        services = stack.enter_context(Services.running(folder)) if with_services else None
        crashes = Crashes(folder, seed, services)
        stack.callback(crashes.close)
        with crashes.server.running():
            crashes.warm()
            for number, victim in numbered:
                row = crashes.run(number, victim)
                rows.append(row)
                print(
                    f"{number}: {victim}, {row['answers_again_seconds']} s, {row['facts']}, "
                    f"{row['details'] or 'no violation'}",
                    flush=True,
                )
            left = crashes.everything()
    end: dict[str, Any] = {
        "run": "all, at the end",
        "server": "PostgreSQL, LMCache" if with_services else "SQLite, KV files",
        "violations": Counter(each.kind for each in left),
        "details": shown(left),
    }
    return [*rows, end]


def _victims(text: str) -> tuple[str, ...]:
    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        if each not in VICTIMS:
            raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(VICTIMS)}")
    return found


if __name__ == "__main__":
    main()
