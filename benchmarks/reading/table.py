"""Tables of reading by rules and classifier, in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

LANGUAGES = ("en", "de", "fr", "es", "pt", "zh", "ja", "hi")


def reading(record: Mapping[str, Any]) -> str:
    rows = {row["part"]: row for row in record["rows"]}
    changed, said, judged = rows["corrections"], rows["statements"], rows["changes"]
    by_language = [
        [
            "statements kept, of those that no training saw",
            *(f"{100 * said[f'recall_{each}']:.0f} %" for each in LANGUAGES),
        ],
        [
            "corrections after which the old value is served unmarked",
            *(f"{100 * changed[f'stale_unmarked_{each}']:.0f} %" for each in LANGUAGES),
        ],
    ]
    profile, real = rows["prefeval"], rows["real turns"]
    whole = [
        ["what is kept of own sentences: rightly", f"{100 * said['precision']:.0f} %"],
        ["of the corrections: the new value first", f"{100 * changed['new_first']:.0f} %"],
        [
            "of the corrections: an unrelated fact marked",
            f"{100 * changed['unrelated_marked']:.0f} %",
        ],
        [
            "changes found by the judge, on topics that no training saw",
            f"{100 * judged['recall']:.0f} %",
        ],
        ["what the judge calls a change: rightly", f"{100 * judged['precision']:.0f} %"],
        ["PrefEval: explicit preferences kept", f"{100 * profile['kept']:.0f} %"],
        [
            "PrefEval: always on, after unrelated conversations",
            f"{100 * profile['always_on']:.0f} %",
        ],
        ["PrefEval: in the prompt of its question", f"{100 * profile['in_prompt']:.0f} %"],
        [
            f"{real['sentences']:,} sentences of real users (LongMemEval): {real['kept']} kept, rightly",
            f"{100 * real['precision']:.0f} %",
        ],
    ]
    note = (
        f"Embedder: {record['config']['embedder']}, which knows English; {changed['corrections']} corrections in natural words, "
        f"a fact beside each; {said['sentences']} sentences; PrefEval with {profile['people']} people."
    )
    return f"{table_of(['By language', *LANGUAGES], by_language)}\n\n{table_of(['Whole', 'share'], whole)}\n\n{note}"
