"""Whether a value names a thing by itself, or refers to the conversation ("I like the options")."""

from __future__ import annotations

import re

# "I like it", "I love how …", "I enjoy to …": pronouns, clauses, and words without a thing.
_NO_THING = re.compile(
    r"(?:it|its|what|how|when|where|who|why|to|something|anything|nothing|everything|one|ones|both|all"
    r"|neither|either|not|being|seeing|hearing|much|anybody|anyone|everyone|having to|trying to|no longer"  # prose: a word of user language
    r"|me|us|him|her|them|you|more|less|most|some|many|few|several|certain|various|such|another|other|any|each|every"
    r"|so|that|this|these|those|than|if|as|at|in|on|of|by|with|about|out|from|for|up)\b",
    re.IGNORECASE,
)
# A determiner of something mentioned before.
_DEFINITE = re.compile(
    r"(?:the|this|that|these|those|such|my|our|your|his|her|their|its|both|either)\b", re.I
)
# Things of which there is one: "the sea" needs no mention before; nor does a proper name.
_UNIQUE = re.compile(
    r"the (?:sea|seaside|ocean|beach|mountains?|outdoors|countryside|rain|snow|sun|sunshine|cold|heat|winter|summer|spring"
    r"|autumn|fall|forest|woods|desert|night|mornings?|evenings?|weekends?|city|opera|theat(?:re|er)|ballet|cinema|gym"
    r"|water|stars|moon|piano|guitar|violin|drums|arts|dark|wind|silence|wild|tropics|jungle|sky|(?:19)?\d0s"
    r"|colou?r \w+|(?:smell|taste|sound|feel) of (?!the\b)(?-i:[a-z ]+))",
    re.IGNORECASE,
)
_PROPER = re.compile(
    r"(?:the|The|my|My)(?: [A-Z\d][\w'.&-]*)+(?: (?:of|and|in|the|on|for|de)(?: [A-Z\d][\w'.&-]*)+)*"
)
# Pronouns inside, and the hearer: "working with you", "learning about it".
_POINTS_BACK = re.compile(
    r"\b(?:it|them|this|these|those|him|her|their|there|here|you|your|yours)\b", re.I
)
# Parts of a conversation: "I like yoga ideas".
_TALK = re.compile(
    r"^(?:option|plan|version|choice|variant|number|answer|design|draft|example|step|point|part) (?:\w|\d+|one|two|three|four|five)$"
    r"|\b(?:ideas?|suggestions?|options?|recommendations?|tips?|advice|answers?|responses?|repl(?:y|ies)|explanations?"
    r"|examples?|approach|approaches|concepts?|versions?|drafts?|wording|phrasing|first one|second one|last one|no more|any ?more|as much|so much|enough)$",
    re.IGNORECASE,
)


def names_a_thing(value: str) -> bool:
    """Whether the value is understood without the conversation around it."""
    if _NO_THING.match(value) or _POINTS_BACK.search(value) or _TALK.search(value):
        return False
    if _DEFINITE.match(value):
        return bool(_UNIQUE.fullmatch(value)) or bool(_PROPER.fullmatch(value))
    return True
