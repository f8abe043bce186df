"""Split a turn into clauses in which the speaker states something earnestly."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memos_vllm.prompt.sentences import sentences

_LONGEST = 4000  # characters; longer text is probably pasted
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_PASTED = re.compile(
    r"^\s*(?:>|\||#|\d\d?:\d\d|\[[^\]]+\]|[A-Z][\w .-]{0,30}:\s)[^\n]*$", re.MULTILINE
)
_QUOTE = re.compile(
    r"[\"\u201c\u201d\u00ab\u00bb]([^\"\u201c\u201d\u00ab\u00bb\n]*)[\"\u201c\u201d\u00ab\u00bb]"
)
_NAME_QUOTED = re.compile(r"[\w'-]+(?: [\w'-]+)?")
_OTHERS_TEXT = re.compile(
    r"\b(?:translate|summari[sz]e|proofread|rewrite|rephrase|paraphrase|classify|correct|edit|grade|review|analy[sz]e"
    r"|improve|repeat|explain)\b[^.!?\n]{0,80}(?::|\b(?:following|this (?:text|sentence|email|letter|paragraph|essay))\b)"
    r"|\b(?:here is|here's|this is) (?:an?|the|my) (?:\w+ )?(?:text|email|e-mail|letter|message|transcript|article|story"
    r"|example|quote|review|essay|bio|poem|lyrics|script|prompt|test)\b",
    re.IGNORECASE,
)
_NOT_MEANT = re.compile(
    r"\b(?:pretend|imagine|imagining|role-?\s?play(?:ing)?|suppose|supposing|hypothetical(?:ly)?|fictional|make-believe"
    r"|what if|let's say|in (?:this|that|the|my|our|your|a) (?:story|game|novel|scene|play|movie|film|script|sketch|dream)|once upon"
    r"|write (?:me )?(?:an?|the|my) [\w ]{0,40}|you are an? |in the voice of|just kidding|only kidding"
    r"|(?:just|only) joking|i'm joking|i'm kidding|jk|april fool\w*|sarcas\w+)\b|/s\s*$|[\U0001F61C\U0001F609\U0001F643]",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:if|unless|would|could|might|maybe|perhaps|probably|possibly|wish|wished|hope|supposedly|apparently|allegedly"
    r"|guess|not sure|i think|i believe|almost|nearly|dreamt|dreamed|as though|as if|like a|said|says|told|claims?"
    r"|claimed|asked|wrote|sings?|lyrics)\b|\?",
    re.IGNORECASE,
)
_BORDER = re.compile(
    r"\s*;\s*|\s+[-\u2013\u2014]\s+|,?\s+(?:and|but|so|because|though|although)\s+(?=(?:I|I'm|I've|my|call)\b)"
    r"|,\s+(?=(?:I|I'm|I've|my|call)\b)"
)
_GREETING = re.compile(
    r"(?:hi|hello|hey|good (?:morning|evening|afternoon))(?:\s(?:there|all|everyone))?[,.!]*\s+",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:oh|no|nope|yes|yeah|yep|ok|okay|so|well|and|but|also|actually|in fact|correction|sorry|wait|btw|by the way"
    r"|fyi|for the record|just so you know|anyway|now|currently|these days|nowadays|recently|well actually"
    r"|(?:please )?note(?: that)?|(?:to be|as) (?:honest|i said))\b[,:.!]*\s+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?:[,\s]+(?:now|too|as well|again|actually|these days|nowadays|currently|at the moment|at present|right now|a lot"
    r"|very much|so much|of course|by the way|btw|though|instead|please|thanks|thank you|in general|with my \w+"
    r"|(?:because|since it|when|which|where|so|but|while)\s.*|for (?:over |about |almost )?(?:\w+ )?\w+ (?:years?|months?|weeks?)(?: now)?))+$",
    re.IGNORECASE,
)


def clauses(text: str) -> Iterator[tuple[str, bool]]:
    """(clause, whether a greeting precedes it), without lead-in and trailing phrases.

    Text by other authors, games and jokes give no clause; questions, conditions, guesses, reports,
    quotes and code are left out.
    """
    plain = text[:_LONGEST].replace("\u2019", "'").replace("\u2018", "'")
    plain = _CODE.sub("\n", plain)
    if len(text) > _LONGEST or _OTHERS_TEXT.search(plain) or _NOT_MEANT.search(plain):
        return
    for sentence in sentences(_PASTED.sub("", plain)):
        unquoted = _QUOTE.sub(lambda q: q[1] if _NAME_QUOTED.fullmatch(q[1]) else "\x01", sentence)
        if "\x01" in unquoted or _UNSURE.search(unquoted):
            continue
        rest, greeted = (
            _GREETING.subn("", unquoted, count=1) if _GREETING.match(unquoted) else (unquoted, 0)
        )
        for number, clause in enumerate(_BORDER.split(rest)):
            if stripped := stripped_clause(clause):
                yield stripped, bool(greeted) and number == 0


def is_earnest(text: str) -> bool:
    """Whether a turn is no game, no joke, and not about a text by another author."""
    return _NOT_MEANT.search(text) is None and _OTHERS_TEXT.search(text) is None


def is_sure(sentence: str) -> bool:
    """Whether a sentence is a statement: no question, condition, guess, wish or report."""
    return _UNSURE.search(sentence) is None


def stripped_clause(clause: str) -> str:
    """Strip lead-in and trailing phrases, and marks at both ends."""
    rest = " ".join(clause.split()).strip(" .!,:*_\u2026")
    while (lead := _LEAD.match(rest)) is not None:
        rest = rest[lead.end() :]
    return _TAIL.sub("", rest).strip(" .!,:")
