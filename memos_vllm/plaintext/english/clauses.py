"""Split a turn into clauses in which the speaker states something earnestly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from memos_vllm.plaintext.bounded import shortened
from memos_vllm.plaintext.english.vocabulary import NAME, WORK
from memos_vllm.prompt.sentences import sentences

_LONGEST = 4000  # characters; longer text is probably pasted
LONGEST_CLAUSE = 300  # characters; forms are shorter
_MOST_LEADS = 8
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_PASTED = re.compile(
    r"^\s*(?:>|\||#|\d\d?:\d\d|\[[^\]]+\]|(?!(?:My|I|We|Our|It|So|And|But|Now|New|Update|News|Correction|Edit|PS|Note|(?:Big|Good|Great|Bad|Quick) (?:news|update))\b)[A-Z][\w .-]{0,30}:\s)[^\n]*$",
    re.MULTILINE,
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
    r"|guess(?! what)|not sure|i think|i believe|almost|nearly|dreamt|dreamed|as though|as if|like a|said|says|told|claims?"
    r"|claimed|asked|wrote|sings?|lyrics)\b|\?",
    re.IGNORECASE,
)
_SUBJECT = r"(?:[Ii]|I'm|I've|i'm|i've|my|My|we|We|we're|we've|our|call)"
_BORDER = re.compile(
    r"\s*;\s*|\s+[-\u2013\u2014]+\s+|:\s+|,?\s+(?:and|but|so|because|though|although|then|and now|but now|and then)"
    rf"\s+(?=(?:now |then |also )?{_SUBJECT}\b)|,\s+(?=(?:now |then |also )?{_SUBJECT}\b)"
)
# "I don't like small dogs and prefer larger breeds": the subject of the second verb is the first one's.
_ELIDED = re.compile(
    r",?\s+(?:and|but|then|and then|but then|or rather)\s+(?:(?:also|now|really|then|just|finally|generally|usually|always|strictly|strongly)\s+)?"
    r"(?=(?:don't|do not|can't|cannot|am|was|prefer|hate|dislike|adore|avoid|detest|speak|own|have|moved|joined|started"
    r"|quit|left|bought|sold|got|turned|became|never|no longer|used to|absolutely|(?:like|love|enjoy)\s+\w+"
    r"|(?:live|reside)\s+in|work\s+(?:at|for|as|in|from)|drive\s+an?|(?:eat|drink|play)\s+\w+)\b)",
)
_GREETING = re.compile(
    r"(?:hi|hello|hey|good (?:morning|evening|afternoon))(?:\s(?:there|all|everyone))?[,.!]*\s+",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:oh|no|nope|yes|yeah|yep|ok|okay|so|well|and|but|also|actually|in fact|correction|sorry|wait|btw|by the way"
    r"|fyi|for the record|just so you know|anyway|now|currently|these days|nowadays|recently|lately|well actually"
    r"|(?:please )?note(?: that)?|(?:to be|as) (?:honest|i said)|(?:it |as it )?turns? out(?: that)?|update|quick update"
    r"|(?:good|big|great|bad|sad|exciting) news|news|guess what|scratch that|to clarify|finally|at last|hm+|ah|haha|then"
    r"|after all(?!\sth)|(?:after|for) (?:all )?(?:these|those|many|\w+) years|as of (?:today|now|this \w+|last \w+|\w+day)|since (?:today|yesterday|last \w+|\w+day)|from (?:now|today) on"
    r"|at the moment|right now|today|unfortunately|sadly|luckily|happily|in the end|since then|meanwhile|personally"
    r"|speaking of which|my bad|oops|however|in general|generally|honestly|ps|p\.s)\b[,:.!]*\s+(?!on\b|that's\b)",
    re.IGNORECASE,
)
# Possessive: what a tail has taken is not given back, as trying that takes exponential time.
_TAIL = re.compile(
    r"(?:[,\s]+(?:now|too|as well|again|actually|these days|nowadays|currently|at the moment|at present|right now|a lot"
    r"|very much|so much|of course|by the way|btw|though|instead|please|thanks|thank you|in general|(?<!up\s)with my \w+"
    r"|from here on(?: out)?|for (?:us|me)|so far|the most|to death|at last|finally|after all|for sure"
    r"|as of (?:today|now|this \w+|last \w+|\w+day)|since (?:today|yesterday|last \w+|\w+day|then)|anyway|haha|lol|entirely|altogether|at all"
    r"|(?<=,\s)(?:and )?not (?:in |at |for |with )?[\w' ]{1,30}|(?:instead of|rather than) [\w' ]{1,30}"
    r"|(?:because|since it|due to|(?:after|before) (?:I|we|my|our|having)|as (?:I|we|it|you|they|he|she)|which|where(?!\sI\s(?:live|work)\b)|so|but(?!\s(?:now\s)?it\b))\s.*|for (?:over |about |almost )?(?:\w+ )?\w+ (?:years?|months?|weeks?)))++$",
    re.IGNORECASE,
)
# "when I was six", "as a child", "for two years": with a verb in the past, the clause is over.
_PAST_FRAME = re.compile(
    r"\b(?:when|while|until|till)\s(?:I|we|he|she|they|my|our)\b[^.!?]{0,40}?\b(?:was|were|had|lived|turned"
    r"|got|went|worked|studied|\w+ed)\b|\bas an? (?:\w+ )?(?:kid|child|baby|boy|girl|teen|teenager|student|toddler|youngster)\b"
    r"|\bat (?:the )?age (?:of )?\w+|\bgrowing up\b|\bin (?:my|our) (?:childhood|youth|teens|twenties|thirties|early \w+)\b"
    r"|\b(?:back then|at the time|in those days|back in the day|years ago as|for a (?:while|bit|time|year|month|week|semester|summer)"
    r"|for (?:two|three|four|five|six|seven|eight|nine|ten|a few|several|\d+) (?:days|weeks|months|years|semesters)|briefly"
    r"|temporarily|originally|at first|initially|once upon)\b",
    re.IGNORECASE,
)
_PAST_VERB = re.compile(
    r"(?:I|we)\s(?:\w+ly\s)?(?:was|were|had|got|left|quit|lost|bought|sold|took|went|became|grew|ran|drove|met|used to"
    r"|\w+ed)\b",
    re.IGNORECASE,
)
_ADVERB = re.compile(
    r"\s(?:(?<!from\s)now|currently|presently|finally|officially|recently|just|nowadays|already|actually|basically|eventually"
    r"|permanently|legally|happily|proudly|still|really|truly|strongly|strictly|always(?=\savoid)|absolutely|definitely|certainly|honestly|simply|also|totally"
    r"|completely|lately|literally|obviously|personally|generally|usually|mostly|typically|after all|these days"
    r"|at last|at the moment|at present|right now|in fact|of course|once again)(?=\s|$)"
)
_LONG = tuple(
    (re.compile(rf"\b{short}\b", re.IGNORECASE), full)
    for short, full in (
        *(
            ("I'm", "I am"),
            ("Im", "I am"),
            ("I've", "I have"),
            ("Ive", "I have"),
            ("we're", "we are"),
        ),
        *(("we've", "we have"), ("don't", "do not"), ("dont", "do not"), ("doesn't", "does not")),
        *(("isn't", "is not"), ("aren't", "are not"), ("can't", "cannot"), ("can not", "cannot")),
        *(("ain't", "am not"), ("it's", "it is"), ("haven't", "have not"), ("hasn't", "has not")),
        *(("wasn't", "was not"), ("anymore", "any more")),
    )
)
# "My badge says Globex, that is where I work"
_WHERE = re.compile(
    rf"^[\w' ]*?(?P<name>{NAME}),? (?:and )?(?:that is|that's|this is|which is) where (?:I|we) (?P<verb>work|live|earn (?:my|our) (?:money|living)"
    r"|am employed|am based)\b.*",
    re.IGNORECASE,
)
# "my girlfriend and I broke up", "my name is not Bob, it is Rob", "allergic to soy, not nuts"
_REWORDED = (
    (
        re.compile(
            r"^([\w' -]+?) is (?:not|no longer) (my [\w -]+?)(?: any ?more)?,? (?:but )?(?:now )?(?:it|he|she) is ",
            re.I,
        ),
        r"\2 is ",
    ),
    (
        re.compile(
            r"\bI used to (?:hate|dislike|love|like|enjoy) ([\w -]+?),? but (?:now )?I (?:now )?(?:really )?(hate|dislike|love|like|enjoy|do not like)"
            r" (?:them|it)\b",
            re.I,
        ),
        r"I \2 \1",
    ),
    (
        re.compile(
            rf"\bI ((?:work|am working|started working) (?:at|for) {NAME}) (as an? [\w ]+)$", re.I
        ),
        r"I \1; I work \2",
    ),
    (
        re.compile(
            rf"\b(I am an? (?:[\w-]+ ){{0,3}}?(?!student){WORK}) (?:at|for) ({NAME})$", re.I
        ),
        r"\1; I work at \2",
    ),
    (
        re.compile(
            r"\b(my [\w-]+) and I (?:(?:have|'ve) )?(?:just |finally )?(broke|split|broken) up\b",
            re.I,
        ),
        r"I \2 up with \1",
    ),
    (
        re.compile(
            r"\bmy ([\w -]+?)(?:'s| is|'s name is) (?:not|no longer) [^,;]+?,? (?:but )?(?:it|he|she) is ",
            re.I,
        ),
        r"my \1 is ",
    ),
    (
        re.compile(r"\b(I am allergic to) ([\w ]+), (?:and )?not (?:to )?([\w ]+)$", re.I),
        r"\1 \2; I am not allergic to \3",
    ),
)
# "For running, I prefer mornings" is not about mornings in general.
_QUALIFIES = re.compile(
    r"(?:as for|for|with|in terms of|regarding|concerning|when it comes to|of (?:the|these|those|all)|between)\s",
    re.IGNORECASE,
)
_OUR = re.compile(r"\bour\b", re.IGNORECASE)
_WE = re.compile(
    r"^we(?= (?:live|are living|used to live|have (?:an? |two |three |four |five )|own|had to put|(?:have )?(?:renamed|named|sold|bought|adopted|got rid of)|call|called|are vegan|are vegetarian)\b)",
    re.I,
)
# "New job! It is Globex since Monday."
_NEWS = re.compile(
    r"(?:(?:I|we)(?: have|'ve)? ?(?:got|have|started)? )?(?:an?(?:other)? |my |our )?(?:brand )?new (?P<what>job|employer|company|home|flat"
    r"|apartment|house|place|city|town|country|name|cat|kitten|dog|puppy|pet|car|boss|phone number|number|e-?mail)"
    r"(?: for me| for us| alert| time)?"
    r"|(?P<moving>(?:(?:I|we)(?: have|'ve)? (?:packed|moved)(?: up)?(?: (?:everything|my things|our things|(?:my|our) bags|house|away|again))?(?: up)?"
    r"|moving day|time to move))",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    r"(?:it is|it's|this time it is|I am|I'm|he is|she is) (?:now )?(?:at |with |in |called |named )?(?P<value>.+)",
    re.I,
)
_HOMES = ("flat", "apartment", "house", "place", "city", "town", "country")


@dataclasses.dataclass(frozen=True, slots=True)
class Clause:
    text: str
    is_greeted: bool
    """A greeting precedes it."""
    is_past: bool
    """Its sentence is about an earlier time of life: "when I was six"."""


def clauses(text: str) -> Iterator[Clause]:
    """Clauses without lead-in and trailing phrases, their elided subjects in place.

    Text by other authors, games and jokes give no clause; questions, conditions, guesses, reports,
    quotes and code are left out.
    """
    plain = shortened(text[:_LONGEST]).replace("\u2019", "'").replace("\u2018", "'")
    plain = _CODE.sub("\n", plain)
    if len(text) > _LONGEST or _OTHERS_TEXT.search(plain) or _NOT_MEANT.search(plain):
        return
    news = ""
    for sentence in sentences(_PASTED.sub("", plain)):
        unquoted = _QUOTE.sub(lambda q: q[1] if _NAME_QUOTED.fullmatch(q[1]) else "\x01", sentence)
        unquoted = _WHERE.sub(_where, unquoted)
        if "\x01" in unquoted or _UNSURE.search(unquoted):
            continue
        rest, greeted = (
            _GREETING.subn("", unquoted, count=1) if _GREETING.match(unquoted) else (unquoted, 0)
        )
        is_past = _PAST_FRAME.search(rest) is not None
        for number, part in enumerate(_parts(rest)):
            clause = stripped_clause(part)
            if news and (said := _IT_IS.fullmatch(clause)) is not None:
                clause = f"my new {news} is {said['value']}"
            found = _NEWS.fullmatch(clause)
            news = _news(found) if found is not None else ""
            if clause:
                over = is_past and _PAST_VERB.match(clause) is not None
                yield Clause(clause, bool(greeted) and number == 0, over)


def _parts(sentence: str) -> Iterator[str]:
    """Parts of a sentence with a subject each."""
    before = ""
    sentence = _reworded(sentence)
    for part in _BORDER.split(sentence):
        is_qualified, before = _QUALIFIES.match(before) is not None, part
        if is_qualified:
            continue
        begins = re.match(r"(?:\W*(?:\w+,? )?)(I)\b", part, re.IGNORECASE)
        first, *others = _ELIDED.split(part) if begins is not None else (part,)
        yield first
        for other in others:
            yield f"I {other}"


def _where(match: re.Match[str]) -> str:
    is_home = match["verb"].casefold() in ("live", "am based")
    return f"I {'live in' if is_home else 'work at'} {match['name']}"


def _reworded(sentence: str) -> str:
    """The sentence in a form that names what a pronoun in it means, where it has such a form."""
    if len(sentence) > LONGEST_CLAUSE:
        return sentence
    full = sentence.rstrip(" .!")
    for short, long in _LONG:
        full = short.sub(long, full)
    for said, meant in _REWORDED:
        for text in (full, _TAIL.sub("", full)):
            if said.search(text) is not None:
                return said.sub(meant, text)
    return sentence


def _news(match: re.Match[str]) -> str:
    what = (match["what"] or "home").casefold()
    return "home" if what in _HOMES else what


def plain_form(clause: str) -> str:
    """The clause with long forms ("I am", "do not") and without adverbs of time and degree."""
    rest = clause
    for short, full in _LONG:
        rest = short.sub(full, rest)
    rest = _OUR.sub("my", _WE.sub("I", _ADVERB.sub("", f" {rest}").strip()))
    return " ".join(rest.split())


def is_earnest(text: str) -> bool:
    """Whether a turn is no game, no joke, and not about a text by another author."""
    return _NOT_MEANT.search(text) is None and _OTHERS_TEXT.search(text) is None


def is_sure(sentence: str) -> bool:
    """Whether a sentence is a statement: no question, condition, guess, wish or report."""
    return _UNSURE.search(sentence) is None


def stripped_clause(clause: str) -> str:
    """Strip lead-in and trailing phrases, and marks at both ends."""
    rest = " ".join(clause.split()).strip(" .!,:*_\u2026")
    for _ in range(_MOST_LEADS):
        if (lead := _LEAD.match(rest)) is None:
            break
        rest = rest[lead.end() :]
    if len(rest) <= 2 * LONGEST_CLAUSE:
        rest = _TAIL.sub("", rest)
    return rest.strip(" .!,:")
