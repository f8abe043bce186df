"""Tables of reading by rules and classifier, in docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import table_of

LANGUAGES = ("en", "de", "fr", "es", "pt", "zh", "ja", "hi", "it", "ru")


def reading(record: Mapping[str, Any]) -> str:
    rows = {row["part"]: row for row in record["rows"]}
    changed, unseen, control = rows["corrections"], rows["held out"], rows["controls"]
    said, judged, profile, real = (
        rows[part] for part in ("statements", "changes", "prefeval", "real turns")
    )
    by_language = [
        [
            "statements kept, of those that no training saw",
            *(_percent(said, f"recall_{each}") for each in LANGUAGES),
        ],
        [
            "corrections after which the old value is served unmarked",
            *(_percent(changed, f"stale_unmarked_{each}") for each in LANGUAGES),
        ],
        [
            "the same, held out",
            *(_percent(unseen, f"stale_unmarked_{each}") for each in LANGUAGES),
        ],
        [
            "held out: the new value first",
            *(_percent(unseen, f"new_first_{each}") for each in LANGUAGES),
        ],
    ]
    both = [
        ["old value served unmarked", *_both(changed, unseen, "stale_unmarked")],
        ["new value first", *_both(changed, unseen, "new_first")],
        ["unrelated facts ended", *_both(changed, unseen, "unrelated_retired")],
        ["unrelated facts marked as perhaps outdated", *_both(changed, unseen, "unrelated_marked")],
        ["unrelated facts not found", *_both(changed, unseen, "unrelated_lost")],
    ]
    whole = [
        ["controls, which look like changes: the fact ended", _percent(control, "retired")],
        ["controls: the fact marked as perhaps outdated", _percent(control, "marked")],
        ["what is kept of own sentences: rightly", _percent(said, "precision")],
        ["changes ended by the judge, on topics that no training saw", _percent(judged, "recall")],
        ["what the judge ends: rightly", _percent(judged, "precision")],
        ["changes ended or marked, on the same topics", _percent(judged, "marked")],
        [
            "pairs of these topics without a change: ended or marked",
            _percent(judged, "marked_of_others"),
        ],
        ["PrefEval: explicit preferences kept", _percent(profile, "kept")],
        ["PrefEval: always on, after unrelated conversations", _percent(profile, "always_on")],
        ["PrefEval: in the prompt of its question", _percent(profile, "in_prompt")],
        [
            f"{real['sentences']:,} sentences of real users (LongMemEval): {real['kept']} kept, rightly",
            _percent(real, "precision"),
        ],
    ]
    note = (
        f"Embedder: {record['config']['embedder']}, which knows English; {changed['corrections']} corrections in natural "
        f"words and {unseen['corrections']} held out of rules and training (only their totals were seen), each with five facts beside; "
        f"{control['controls']} controls; {said['sentences']} sentences; PrefEval with {profile['people']} people."
    )
    tables = (
        table_of(["By language", *LANGUAGES], by_language),
        table_of(["Corrections", "looked into", "held out"], both),
        table_of(["Whole", "share"], whole),
    )
    return "\n\n".join([*tables, note])


def _both(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> list[str]:
    return [f"{100 * row[key]:.1f} %" for row in (one, other)]


def _percent(row: Mapping[str, Any], key: str) -> str:
    """A share; a dash for a language that the part has not."""
    return f"{100 * row[key]:.0f} %" if key in row else "–"
