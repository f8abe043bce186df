"""`python -m benchmarks.audit_reads [--slices 12] [--quick]`: TTFT of chats whose memory is recorded before the reply.

Four servers of the demo's model, with the same memory: two record reads of memory after the reply
(`governance.audit.reads: after_reply`; the second one is the noise floor), one before the first token
(`before_reply`, the default: written to the journal beside the prefill), one before the engine sees the
prompt (`required: true`).  The method is that of `benchmarks.overhead`: slices of the same fresh prompts
to both servers in turn, ratios request by request.  Prompts are short and their memory is in the prefix
cache: the shorter the prefill, the less of the write it hides.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.overhead.__main__ import _make_key
from benchmarks.overhead.slices import Send, Size, measure, rows_of, sender
from benchmarks.record import Record, output_arguments
from tests.engine.harness import Server

NOISE = "after the reply, against itself"
BESIDE = "before the first token, beside the prefill"
REQUIRED = "before the engine (required)"
TOKENS, STAGGER_SECONDS = 8, 2.0
READS, MUST = "MEMOS__GOVERNANCE__AUDIT__READS", "MEMOS__GOVERNANCE__AUDIT__REQUIRED"
SETTINGS = {
    "baseline": {READS: "after_reply"},
    NOISE: {READS: "after_reply"},
    BESIDE: {READS: "before_reply"},
    REQUIRED: {READS: "before_reply", MUST: "true"},
}
MEMORY = " ".join(f"Rule {n}: shelf {n} holds the parcels of street {n * 7}." for n in range(20))
QUICK = Size(slices=1, requests=2, words=10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=12, help="of each case")
    parser.add_argument("--requests", type=int, default=4, help="to each server, in a slice")
    parser.add_argument("--words", type=int, default=20, help="length of a prompt")
    output_arguments(parser)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size(arguments.slices, arguments.requests, arguments.words)
    with started() as senders:
        baseline = senders.pop("baseline")
        slices = measure(0, {case: (send, baseline) for case, send in senders.items()}, size)
    record = Record("audit_reads", rows=rows_of(slices, drop=not arguments.quick))
    record.config = {
        **dataclasses.asdict(size),
        "reply_tokens": TOKENS,
        "memory": "one stable cube",
    }
    by_case = {row["case"]: row for row in record.rows}
    record.headline = {
        "ttft_ratio_beside_prefill": by_case[BESIDE]["ttft_ratio_median"],
        "ttft_ratio_required": by_case[REQUIRED]["ttft_ratio_median"],
        "ttft_ratio_noise": by_case[NOISE]["ttft_ratio_median"],
    }
    record.finish(quick=arguments.quick, out=arguments.out)


@contextmanager
def started() -> Iterator[dict[str, Send]]:
    """A sender to each server, by case; each server knows the same memory of `someone`."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        servers: dict[str, Server] = {}
        keys: dict[str, str] = {}
        for number, (case, settings) in enumerate(SETTINGS.items()):
            home = Path(name) / str(number) / "home"
            keys[case] = _make_key(home)
            servers[case] = Server(home.parent, home=home, environment=settings)
        with ThreadPoolExecutor(len(servers)) as pool:
            waiting = []
            for server in servers.values():
                waiting.append(pool.submit(stack.enter_context, server.running()))
                time.sleep(STAGGER_SECONDS)
            for each in waiting:
                each.result()
        for case, server in servers.items():
            with server.http(keys[case], "someone") as http:
                body = {
                    "meta": {"name": "rules", "placement": "stable"},
                    "payload": {"type": "explicit", "content": MEMORY},
                }
                http.post("/v1/memory/cubes", json=body).raise_for_status()
        unwritten = {"write": False, "retrieve": False}
        yield {
            case: sender(server, keys[case], TOKENS, unwritten) for case, server in servers.items()
        }


if __name__ == "__main__":
    main()
