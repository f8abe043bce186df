"""A form: the pattern of a whole clause, and the claim that the clause states."""

from __future__ import annotations

import dataclasses
import re

from memos_vllm.cube.model import ItemType
from memos_vllm.plaintext.english.vocabulary import CASUAL

FACT, PREFERENCE = ItemType.FACT, ItemType.PREFERENCE
Row = tuple[str, str, str] | tuple[str, str, str, dict[str, object]]
"""Pattern, attribute, text, and other fields of the form."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    pattern: re.Pattern[str]
    """Groups: `value`, the claimed value; `key`, its relation or kind of favourite; `said`, own words."""
    casual: re.Pattern[str] | None
    """The same with names in lower case; None: it has no names, or they need their capitals."""
    attribute: str
    """With `{value}` and `{key}` as slugs."""
    text: str
    """About `{person}`, with `{value}`, `{key}` and `{said}` as they were said."""
    value: str = "{value}"
    """Empty: nothing is known but that the older value no longer holds ("I quit my job")."""
    type: ItemType = FACT
    is_over: bool = False
    """The clause ends the claim with this value: "I no longer …"."""
    is_list: bool = False
    """ "tea and coffee" are two claims."""
    also: tuple[str, str] | None = None
    """A second attribute, whose older value no longer holds either, and the text of its claim."""


def forms(*rows: Row, **common: object) -> list[Form]:
    """Forms of rows; `common` fields hold for all of them."""
    made = []
    for pattern, attribute, text, *more in rows:
        fields: dict[str, object] = {**common, **(more[0] if more else {})}
        is_casual = bool(fields.pop("has_casual", True))
        casual = pattern
        for proper, lower in CASUAL:
            casual = casual.replace(proper, lower)
        made.append(
            Form(
                _compiled(pattern),
                _compiled(casual) if is_casual and casual != pattern else None,
                attribute,
                text,
                **fields,  # type: ignore[arg-type]
            )
        )
    return made


def over(*patterns: str, attribute: str, text: str, **fields: object) -> list[Form]:
    """Forms that end the claim with their value."""
    kind = PREFERENCE if attribute.startswith(("likes", "favourite")) else FACT
    return forms(
        *((pattern, attribute, text) for pattern in patterns), type=kind, is_over=True, **fields
    )


def ended(*patterns: str, attribute: str, also: tuple[str, str] | None = None) -> list[Form]:
    """Forms after which the older value of an attribute, whatever it is, no longer holds.

    The group `said` is what they say of themselves ("quit my job").
    """
    return forms(
        *((pattern, attribute, "{person} {said}") for pattern in patterns), value="", also=also
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"(?<!\\) ", r"\\s", pattern), re.IGNORECASE)
