"""Recognise orders to forget, in ten languages: "Forget that I live in Paris", "Vergiss mich".

An order is a sentence of its own, addressed to the assistant's memory.  Quotes, code and pasted text
give none, and neither do reminders ("don't forget to call"), reports ("I forgot my keys") and idioms
("forget it").  A sentence that matches no form gives none: what is forgotten by mistake is worse.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from memos_vllm.plaintext.english.clauses import is_earnest
from memos_vllm.plaintext.reader import orders as forms
from memos_vllm.plaintext.reader.sentences import Sentence, split

_LONGEST, _LONGEST_ORDER = 4000, 400  # characters
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_PASTED = re.compile(
    r"^\s*(?:>|\||#|\d\d?:\d\d|\[[^\]]+\]|[A-Z][\w .-]{0,30}:\s)[^\n]*$", re.MULTILINE
)
_QUOTE = re.compile(r"[\"\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f]")
_QUOTED = re.compile(
    r"(?:\"|\u201c|\u201e|\u00ab\s?)([^\"\u201c\u201d\u00ab\u00bb\n]*)(?:\"|\u201d|\u201c|\s?\u00bb)"
    r"|\u300c([^\u300d\n]*)\u300d|\u300e([^\u300f\n]*)\u300f"
)
_NAME_QUOTED = re.compile(r"[\w'-]+(?: [\w'-]+)?")
_MARKS = " \u00bf\u00a1.!?\u2026\u3002\uff01\uff1f,;:\u061f"
# Cheap: almost no text has one of these, and then no pattern is tried.
_HINT = re.compile(
    r"forg[eo]t|unlearn|rememb|delete|erase|remov|wipe|clear|purge|reset|drop|scrub|strike|empty|vergiss|vergess|merk"
    r"|l\u00f6sch|entfern|streich|tilg|leer|oubli|efface|supprim|retire|enl\u00e8ve|enlevez|vide|r\u00e9initialis|souviens|olv[i\u00ed]d"
    r"|recuerde|borr[ae]|elimin|quit[ae]|suprime|limpi|vac\u00ed|resetea|reinici|dimentic|scord|cancell|rimuov|togli|svuota"
    r"|azzera|pulisci|ricordare|esque\u00e7|esquec|lembr|apag|remov|exclu|delet|limp|zer[ae]|\u0437\u0430\u0431\u0443\u0434\u044c|\u0437\u0430\u0431\u044b\u0442\u044c|\u043f\u043e\u043c\u043d\u0438"
    r"|\u0443\u0434\u0430\u043b\u0438|\u0441\u043e\u0442\u0440\u0438|\u0443\u0431\u0435\u0440\u0438|\u0432\u044b\u0447\u0435\u0440\u043a\u043d|\u043e\u0447\u0438\u0441\u0442\u0438|\u0441\u0431\u0440\u043e\u0441|\u5fd8|\u5220|\u522a|\u524a|\u6e05|\u62b9|\u91cd\u7f6e|\u8bb0\u5f97|\u8bb0\u4f4f|\u8a18\u5f97|\u8a18\u4f4f|\u6d88"
    r"|\u30ea\u30bb\u30c3\u30c8|\u30af\u30ea\u30a2|\u9664\u53bb|\uc78a|\uc9c0\uc6cc|\uc0ad\uc81c|\ucd08\uae30\ud654|\ube44\uc6cc|\uc5c6\uc560",
    re.IGNORECASE,
)
# "Forget coffee and tell me a joke": another order follows.
_NEXT_ORDER = re.compile(
    r"(?:\s*[,;]\s*|\s+)(?:and|but|then|und|et|y|e|\u0438)\s+(?:then\s+|please\s+|now\s+)?(?:tell|give|show|list|write|make|find"
    r"|explain|help|suggest|recommend|plan|answer|let's|let us|use|what|who|where|when|how|erz\u00e4hl|gib|sag|zeig|schreib|dis|donne"
    r"|dime|dame|dimmi|diga|\u0441\u043a\u0430\u0436\u0438|remember|merk|note|instead)\b.*$",
    re.IGNORECASE,
)
_INSTEAD = re.compile(
    r"\s*[,;:]\s*(?:let's|let us|just|use|try|how about|what about|we|instead|lieber|lass)\b",
    re.IGNORECASE,
)
# "Forget the salt, add more pepper", "Forget breakfast, I'm late": no memory is meant.
_ASIDE = re.compile(r"(?:the|a|an|[a-z]+),?(?: \w+)?, (?!i )\w+ |\w+, i(?:'m| )", re.IGNORECASE)
_ASKS_BACK = re.compile(r"forget\b", re.IGNORECASE)
_ASSERTS = re.compile(
    r"(?:i|i'm|i've|we|my|ich|je|j'|yo|io|eu|\u044f|mein\w*)\b.*\b(?:am|'m|is|are|was|were|have|has|had|like|love|hate|live|lives|work|works|want"
    r"|moved|bin|ist|war|habe|mag|wohne|suis|est|ai|soy|es|tengo|vivo|sono|ho|sou|\u00e9|tenho)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """One order to forget."""

    what: str
    """The content; empty: all memory of the person."""
    is_statement: bool = False
    """Whether the content is a statement ("that I live in Paris") and not a topic ("coffee")."""

    @property
    def is_wide(self) -> bool:
        return not self.what


@dataclasses.dataclass(frozen=True, slots=True)
class Orders:
    """The orders of a message, and what else it says."""

    orders: tuple[Order, ...]
    rest: str


def read_orders(text: str) -> Orders | None:
    """The orders to forget in a person's message; None: it has none."""
    if len(text) > _LONGEST or _HINT.search(text) is None:
        return None
    plain = text.replace("\u2019", "'").replace("\u2018", "'")
    if _CODE.search(plain) or not is_earnest(plain) or _PASTED.search(plain):
        plain = _PASTED.sub("", _CODE.sub("\n", plain))
        if not is_earnest(plain):
            return None
    found, rest, quoting = [], [], False
    for sentence in split(plain, clauses=False):
        inside, quoting = quoting, quoting ^ (len(_QUOTE.findall(sentence.text)) % 2 == 1)
        order = None if inside or quoting else read_order(sentence.text)
        if order is not None:
            found.append(order)
        else:
            rest.append(sentence)
    return Orders(tuple(found), _joined(rest)) if found else None


def read_order(sentence: str) -> Order | None:
    """The order of one sentence, or None."""
    if len(sentence) > _LONGEST_ORDER or _HINT.search(sentence) is None:
        return None
    said = " ".join(sentence.split()).strip(_MARKS)
    if _QUOTE.match(said):
        return None
    if sentence.rstrip().endswith("?") and _ASKS_BACK.match(said):
        return None
    said = _QUOTED.sub(_unquoted, said)
    if "\x01" in said:
        return None
    for language, patterns in _WESTERN:
        for pattern in patterns:
            if (match := pattern.fullmatch(said)) is not None:
                return _of_western(language, match)
    for patterns, reader in _EASTERN:
        for pattern in patterns:
            if (match := pattern.fullmatch(said)) is not None:
                return reader(match)
    return None


def content_of(text: str) -> Order:
    """The order whose content a text is: a sentence with an order, or the bare content."""
    found = read_orders(text)
    if found is not None:
        return found.orders[0]
    what = " ".join(text.split()).strip(_MARKS)
    return Order(what, _ASSERTS.match(what) is not None)


def _of_western(language: forms.Language, match: re.Match[str]) -> Order | None:
    if "what" not in match.re.groupindex:
        return Order("")
    what = match["what"].strip(" ,")
    bare = _NEXT_ORDER.sub("", what)
    if _full(language.wide, bare):
        return Order("")
    if _full(language.none, bare) or _INSTEAD.search(bare) or _ASIDE.match(bare):
        return None
    is_statement = _begins(language.states, what) is not None or _ASSERTS.match(bare) is not None
    if (intro := _begins(language.intro, bare)) is not None:
        bare = bare[intro.end() :].strip(" ,")
        if not is_statement and _full(language.wide, bare):
            return Order("")
    is_statement = is_statement or _ASSERTS.match(bare) is not None
    bare = re.sub(r",?\s+(?:wei\u00dft|wissen|gesagt habe|erz\u00e4hlt habe)$", "", bare)
    return Order(bare, is_statement) if bare and not _full(language.none, bare) else None


def _chinese(match: re.Match[str]) -> Order | None:
    return _of_eastern(
        match,
        forms.CHINESE_WIDE,
        forms.CHINESE_NONE,
        outro=r"(?:\u8fd9\u4ef6\u4e8b|\u9019\u4ef6\u4e8b|\u7684\u4e8b(?:\u60c5)?|\u7684(?:\u4e00\u5207|\u6240\u6709(?:\u4e8b\u60c5)?)|\u5427|\u597d\u5417|\u597d\u55ce)?",
        intro=forms.CHINESE_INTRO,
    )


def _japanese(match: re.Match[str]) -> Order | None:
    return _of_eastern(match, forms.JAPANESE_WIDE, forms.JAPANESE_NONE, outro=forms.JAPANESE_OUTRO)


def _korean(match: re.Match[str]) -> Order | None:
    return _of_eastern(match, forms.KOREAN_WIDE, forms.KOREAN_NONE, outro=forms.KOREAN_OUTRO)


def _of_eastern(
    match: re.Match[str], wide: str, none: str, outro: str, intro: str = r"(?!)"
) -> Order | None:
    if "what" not in match.re.groupindex:
        return Order("")
    what = match["what"].strip(" \u3001\uff0c,")
    if _full(none, what):
        return None
    if _full(rf"(?:{wide})(?:{outro})", what):
        return Order("")
    bare = re.sub(rf"^(?:{intro})", "", what)
    bare = re.sub(rf"(?:{outro})$", "", bare).strip(" \u3001\uff0c,")
    if not bare or _full(none, bare):
        return None
    is_statement = (
        re.search(
            r"\u662f|\u5bf9|\u5c0d|\u4f4f\u5728|\u4f4f\u3093\u3067|\u559c\u6b22|\u559c\u6b61|\u3068\u3044\u3046\u3053\u3068|\u3063\u3066\u3053\u3068|\ub2e4\ub294",
            match[0],
        )
        is not None
    )
    return Order(bare, is_statement)


def _joined(sentences: Sequence[Sentence]) -> str:
    return "".join(sentence.before + sentence.text for sentence in sentences).strip()


def _unquoted(match: re.Match[str]) -> str:
    inside = next(filter(None, match.groups()), "")
    return inside if _NAME_QUOTED.fullmatch(inside) else "\x01"


def _full(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, text, re.IGNORECASE)


def _begins(pattern: str, text: str) -> re.Match[str] | None:
    return re.match(pattern, text, re.IGNORECASE)


def _east(patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


_WESTERN = tuple((language, forms.compiled(language)) for language in forms.WESTERN)
_EASTERN = (
    (_east(forms.CHINESE), _chinese),
    (_east(forms.JAPANESE), _japanese),
    (_east(forms.KOREAN), _korean),
)
