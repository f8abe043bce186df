"""`python -m benchmarks.attacks [--probes 500] [--quick]`: timing attacks on a quiet engine.

Each round: the victim sends a text that is new; the attacker sends a guess that is this text and a guess that
is not, in random order; the victim sends its text again (`memos_vllm.governance.probing`).  The AUC of the
attacker's guesses is 0.5 where their time tells nothing.  The victim's repeat against its first request is the
control.  Surfaces: the engine's prefix cache (from another tenant, and from another person of the same
tenant), stored KV of cubes (exact, and approximate), stored KV of conversations, the embedder's cache of
questions, and adapters in the engine's memory.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.attacks.surfaces import Adapters, Conversations, Searches
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.governance.probe_target import Prefix, Stored, Target
from memos_vllm.governance.probing import LEVEL, Attack, Finding, measured, new_texts
from memos_vllm.system import MemorySystem
from tests.engine.harness import MODEL, Server

WORDS, QUESTION_WORDS = 60, 12
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1", "MEMOS__KV__PREFETCH": "false"}
FLAGS = ("--enable-lora", "--max-loras", "2", "--max-cpu-loras", "64", "--max-lora-rank", "8")
COSTLY = 10
"""An attack on adapters has so many times fewer rounds: each stores three adapters."""
QUICK = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--probes", type=int, default=500, help="rounds of each attack")
    output_arguments(parser)
    arguments = parser.parse_args()
    probes = QUICK if arguments.quick else arguments.probes
    record = Record(
        "attacks",
        options=f"--probes {probes}",
        config={"probes": probes, "level": LEVEL, "words": WORDS},
    )
    with tempfile.TemporaryDirectory() as name:
        for finding in findings(Path(name), probes):
            print(finding, flush=True)
            record.rows.append(finding.as_dict())
    record.headline = headline(record.rows)
    record.finish(quick=arguments.quick, out=arguments.out)


def headline(rows: list[dict[str, object]]) -> dict[str, float]:
    return {
        "attacks": len(rows),
        "attacks_that_leak": sum(bool(row["leaks"]) for row in rows),
        "attacks_that_could_not_tell": sum(not row["conclusive"] for row in rows),
        "attacker_hits": sum(int(str(row["attacker_hits"])) for row in rows),
    }


def findings(folder: Path, probes: int) -> Iterator[Finding]:
    home = folder / "home"
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    victim, attacker = (system.keys.create(t, Role.WRITER)[1] for t in ("acme", "globex"))
    operator = system.keys.create("operator", Role.ADMIN)[1]
    system.close()
    server = Server(folder, home=home, environment=ENVIRONMENT, flags=FLAGS)
    with server.running() as running:
        target = Target(running.url, MODEL)
        try:
            for words, rounds, made in attacks(target, running, (victim, attacker, operator)):
                yield measured(made(), new_texts(words), max(QUICK, probes // rounds))
        finally:
            target.close()


def attacks(
    target: Target, server: Server, keys: tuple[str, str, str]
) -> list[tuple[int, int, Callable[[], Attack]]]:
    """(words of a text, by what the number of rounds is divided, the attack)"""
    own, other, operator = keys
    talks = (target, server, own)
    return [
        (WORDS, 1, lambda: Prefix(target, own, other).attack("prefix cache, another tenant")),
        (WORDS, 1, lambda: Prefix(target, own, own).attack("prefix cache, another person")),
        (WORDS, 1, lambda: Stored(target, own, own).attack("exact KV of a cube, another person")),
        (WORDS, 1, lambda: Stored(target, own, other).attack("exact KV of a cube, another tenant")),
        (
            WORDS,
            1,
            lambda: Stored(target, own, own, "near").attack("near KV of a cube, another person"),
        ),
        (
            WORDS,
            1,
            lambda: Conversations(*talks, own, operator).attack("conversation, another person"),
        ),
        (
            WORDS,
            1,
            lambda: Conversations(*talks, other, operator).attack("conversation, another tenant"),
        ),
        (
            QUESTION_WORDS,
            1,
            lambda: Searches(target, own, own).attack("embedded question, another person"),
        ),
        (
            QUESTION_WORDS,
            1,
            lambda: Searches(target, own, other).attack("embedded question, another tenant"),
        ),
        (
            QUESTION_WORDS,
            COSTLY,
            lambda: Adapters(target, own, other).attack("adapter, another tenant"),
        ),
    ]


if __name__ == "__main__":
    main()
