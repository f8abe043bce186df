"""Read moves: "I moved from Paris to Madrid" names a home, "We have moved to AWS" does not.

People also move to programs, companies and teams.  A single person who "moved to X" is read as one who lives
there, unless the form of the name or the words around it tell otherwise; a group needs evidence of a
home ("to live there", "new flat", "my husband").  Without it, no claim is made.
"""

from __future__ import annotations

import re

from memos_vllm.plaintext.english.vocabulary import LOWER, PLACE

_TO_LIVE = (
    r"(?: (?:in order )?to (?:live|be (?:closer|near|with)|start (?:a |my )?(?:new )?(?:life|job|family)|study|settle)\b.*"
    r"| for (?:work|love|good|school|college|uni|university|grad(?:uate)? school"
    r"|(?:a|my|his|her|our|the) (?:new |first )?(?:job|studies|degree|phd|master's|career|family|wife|husband|partner|girlfriend|boyfriend))\b.*"
    r"| with (?:my|our) (?:wife|husband|partner|family|girlfriend|boyfriend|kids|parents|children)\b.*)"
)
_HOW = r"(?: (?:back|over|down|up|out|across|here|abroad|away|house|home|all the way))*"
_VERB = r"(?P<verb>moved|relocated|emigrated|immigrated|resettled)"


def _pattern(place: str) -> re.Pattern[str]:
    pattern = (
        rf"(?P<who>I|we) (?:have )?{_VERB}(?P<how>{_HOW})(?: from (?P<old>{place}))? to (?:live in )?(?P<value>{place})"
        rf"(?: from (?P<origin>{place}))?(?P<why>{_TO_LIVE})?"
    )
    return re.compile(pattern.replace(" ", r"\s"), re.IGNORECASE)


_MOVE, _CASUAL_MOVE = _pattern(PLACE), _pattern(LOWER)
_INTO = re.compile(
    r"(?:I|we) (?:have )?moved (?:back )?into (?:an?|my|our|the) (?:[\w-]+ ){0,2}?(?:flat|apartment|house|place|home|condo|studio"
    rf"|room|cottage|loft) in (?P<value>{PLACE})".replace(" ", r"\s"),
    re.IGNORECASE,
)
_LIVING = re.compile(
    r"\b(?:to live|live|living|lived|relocat\w+|emigrat\w+|new (?:flat|apartment|house|home|place|neighbou?rhood|city"
    r"|country|town|landlord|neighbou?rs|school)|pack(?:ed|ing)|unpack\w*|movers|removal|rent|lease|mortgage|wife|husband"
    r"|spouse|kids|children|famil(?:y|ies)|girlfriend|boyfriend|house|flat|apartment)\b",
    re.IGNORECASE,
)
# What people move at work: a turn with these words is about systems or companies.
_SYSTEMS = re.compile(
    r"\b(?:team|teams|server|servers|cloud|database|databases|code|codebase|app|apps|software|hosting|infrastructure"
    r"|deploy\w*|stack|framework|workflow|editor|browser|laptop|desktop|operating system|os|platform|migrat\w+|backend"
    r"|frontend|pipeline|data|api|repo|repository|tool|tools|subscription|plan|account|department|project|notes"
    r"|e-?mails?|calendar|docs|distro|distribution|version|programming|switched)\b",
    re.IGNORECASE,
)
# Shapes of products and abbreviations: "AWS", "GitHub", "Windows 11", "Node.js".
_PRODUCT = re.compile(
    r"\b(?!UK\b|USA?\b|UAE\b|NYC\b|LA\b|DC\b|SF\b|NZ\b)[A-Z]{2,}\b|[a-z][A-Z]|\d|\w\.\w|[+#&]"
)
# Names that people move to, and that no shape gives away: programs, departments, kinds of companies.
_PROGRAM = re.compile(
    r"(?:linux|windows|mac|macos|android|ios|ubuntu|debian|fedora|arch|slack|teams|microsoft|google|apple|amazon|azure"
    r"|notion|obsidian|evernote|trello|asana|zoom|discord|telegram|signal|whatsapp|gmail|outlook|firefox|chrome|safari"
    r"|edge|brave|vim|emacs|python|rust|kotlin|swift|typescript|javascript|golang|ruby|scala|docker|kubernetes|terraform"
    r"|postgres|redis|spotify|netflix|substack|wordpress|shopify|stripe|figma|sketch|excel|sheets|jira|linear|bitcoin"
    r"|react|vue|angular|django|flask|marketing|sales|engineering|finance|operations|support|management|consulting"
    r"|research|product|legal|part-time|full-time|freelancing|remote|monday|tuesday|wednesday|thursday|friday|saturday"
    r"|sunday|january|february|april|june|july|september|october|november|december)\b",
    re.IGNORECASE,
)


def read_move(clause: str, turn: str) -> str | None:
    """The new home that a clause in plain form states; None: it states none.

    Args:
        turn: the whole turn, whose words may be evidence.
    """
    if (into := _INTO.fullmatch(clause)) is not None:
        return str(into["value"])
    match = _MOVE.fullmatch(clause)
    if match is None and clause.replace("I ", "i ") == clause.lower():
        match = _CASUAL_MOVE.fullmatch(clause)
    if match is None:
        return None
    names = [name for name in (match["value"], match["old"], match["origin"]) if name]
    if any(_PRODUCT.search(name) or _PROGRAM.match(name) for name in names):
        return None
    around = turn.replace(match["value"], " ")
    is_surely_living = bool(
        match["why"]
        or "live in" in clause
        or match["verb"].casefold() != "moved"
        or re.search(r"\b(?:house|home|abroad)\b", match["how"], re.IGNORECASE)
        or ", " in match["value"]
    )
    if is_surely_living:
        return str(match["value"])
    if _SYSTEMS.search(around):
        return None
    is_single = match["who"].casefold() == "i"
    return str(match["value"]) if is_single or _LIVING.search(around) else None
