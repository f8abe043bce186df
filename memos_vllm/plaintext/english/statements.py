"""Table of statements that people make about themselves: form of the clause → claim.

A form matches a whole clause, so that a clause with additional content, or about another person,
matches none.  Names need their capitals.
"""

from __future__ import annotations

import dataclasses
import re

from memos_vllm.cube.model import ItemType

FACT, PREFERENCE = ItemType.FACT, ItemType.PREFERENCE


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    pattern: re.Pattern[str]
    """Groups: `value`, the claimed value; `key`, its relation or kind of favourite."""
    attribute: str
    """With `{value}` and `{key}` as slugs."""
    text: str
    """About `{person}`, with `{value}` and `{key}` as they were said."""
    value: str = "{value}"
    type: ItemType = FACT
    is_over: bool = False
    """The clause ends the claim: "I no longer …"."""
    is_list: bool = False
    """ "tea and coffee" are two claims."""


_NAME = r"(?-i:[A-Z])[\w'-]*(?:\s(?-i:[A-Z])[\w'-]*){0,2}"
_PLACE = r"(?:the\s)?(?-i:[A-Z])[\w'.-]*(?:,?\s(?:(?:de|la|el|of|am|upon|the)\s)?(?-i:[A-Z])[\w'.-]*){0,4}"
_THING = r"[\w][\w'&/+#. -]{0,60}?[\w+#]|\w"
_LANGUAGE = r"(?-i:[A-Z])[a-z]+(?:\s(?-i:[A-Z])[a-z]+)?"
_BE, _HAVE = r"(?:am|'m)", r"(?:have|'ve)"
_TRULY = r"(?:(?:really|absolutely|also|do|quite|still|just|particularly|especially)\s)?"
_MORE = r"\s(?:any\s?more|any\slonger)"
_KIN = (
    r"(?:(?P<which>other|second|older|elder|younger|little|big|eldest|youngest|best|new|late)\s)?"
    r"(?P<key>wife|husband|spouse|partner|girlfriend|boyfriend|fianc[e\u00e9]e?|son|daughter|child|baby|kid|brother"
    r"|sister|twin|mother|mom|mum|father|dad|grandmother|grandma|grandfather|grandpa|aunt|uncle|cousin|niece"
    r"|nephew|friend|boss|manager|colleague|roommate|flatmate|neighbou?r|teacher|doctor|dentist|therapist"
    r"|cat|kitten|dog|puppy|pet|rabbit|bunny|hamster|parrot|bird|horse|pony|fish|goldfish|turtle|tortoise"
    r"|snake|lizard|guinea\spig|boat|car|band|company|startup)"
)
_WORK = (
    r"(?:teacher|nurse|doctor|surgeon|physician|dentist|vet|veterinarian|pharmacist|therapist|psychologist|engineer"
    r"|developer|programmer|designer|architect|analyst|scientist|researcher|professor|lecturer|student|lawyer"
    r"|attorney|judge|accountant|banker|consultant|manager|director|chef|cook|baker|barista|waiter|waitress|pilot"
    r"|driver|farmer|gardener|carpenter|electrician|plumber|mechanic|musician|singer|guitarist|pianist|actor"
    r"|actress|artist|painter|sculptor|photographer|writer|author|journalist|editor|translator|librarian|historian"
    r"|biologist|chemist|physicist|mathematician|economist|statistician|firefighter|paramedic|police\sofficer"
    r"|soldier|salesman|saleswoman|salesperson|realtor|entrepreneur|freelancer|secretary|receptionist|nanny"
    r"|hairdresser|tailor|social\sworker|data\sscientist|project\smanager|product\smanager|coach|flight\sattendant)"
)
_OWNED = (
    r"(?:[\w-]+\s){0,3}?(?:car|bike|bicycle|motorbike|motorcycle|scooter|van|truck|boat|kayak|canoe|house|flat"
    r"|apartment|cabin|cottage|garden|farm|cat|kitten|dog|puppy|rabbit|hamster|parrot|horse|pony|turtle|tortoise|snake"
    r"|goldfish|guinea\spig|guitar|piano|violin|cello|drum\skit|camera|telescope|laptop|tablet|dishwasher|3d\sprinter)"
)
_MANY = r"(?P<value>two|three|four|five|six|seven|eight|nine|ten|\d{1,2})"
_COUNTED = r"(?P<key>kids|children|sons|daughters|brothers|sisters|siblings|cats|dogs|pets|horses|grandchildren)"
_LASTING = r"(?:always|from\snow\son,?|in\s(?:the\s)?future,?|only\sever)"
_ANSWER = r"(?:answer|reply|respond|write|talk|speak)(?:\s(?:to\s)?me)?"
_DIET = r"(?:an?\s)?(?:strict\s)?(?P<value>vegan|vegetarian|pescatarian|pescetarian|kosher|halal|flexitarian)"
_LIKE = r"(?:like|love|enjoy|adore)"
_DISLIKE = r"(?:hate|dislike|detest|loathe|can't\sstand|cannot\sstand|can't\sbear)"
_NOT = r"(?:don't|do\snot)"
_BEEN_THERE = r"(?:live|reside|am\sliving|'m\sliving|am\sbased|'m\sbased|have\slived|'ve\slived|(?:have|'ve)\sbeen\sliving)"


def _forms(*rows: tuple[str, str, str] | tuple[str, str, str, dict[str, object]]) -> list[Form]:
    forms = []
    for pattern, attribute, text, *more in rows:
        spaced = re.sub(r"(?<!\\) ", r"\\s", pattern)
        options: dict[str, object] = dict(more[0]) if more else {}
        forms.append(Form(re.compile(spaced, re.IGNORECASE), attribute, text, **options))  # type: ignore[arg-type]
    return forms


def _over(*patterns: str, attribute: str, text: str, is_list: bool = False) -> list[Form]:
    kind = PREFERENCE if attribute.startswith("likes") else FACT
    options: dict[str, object] = {"is_over": True, "type": kind, "is_list": is_list}
    return _forms(*((pattern, attribute, text, options) for pattern in patterns))


FORMS: tuple[Form, ...] = (
    # Forms that end a claim come first: "I no longer live in Paris" is no home.
    *_over(
        rf"I (?:no longer|{_NOT}) (?:live|reside) in (?P<value>{_PLACE})(?:{_MORE})?",
        rf"I used to live in (?P<value>{_PLACE})",
        rf"I (?:{_HAVE} )?moved (?:away from|out of) (?P<value>{_PLACE})",
        attribute="home",
        text="{person} no longer lives in {value}",
    ),
    *_over(
        rf"I (?:no longer|{_NOT}) work (?:at|for) (?P<value>{_NAME})(?:{_MORE})?",
        rf"I used to work (?:at|for) (?P<value>{_NAME})",
        rf"I (?:quit|left|lost) my job (?:at|with) (?P<value>{_NAME})",
        rf"I (?:was|got) (?:fired|laid off) (?:from|by) (?P<value>{_NAME})",
        attribute="employer",
        text="{person} no longer works at {value}",
    ),
    *_over(
        rf"I {_NOT} {_LIKE} (?P<value>{_THING}){_MORE}",
        rf"I no longer {_LIKE} (?P<value>{_THING})",
        rf"I (?:{_HAVE} )?stopped liking (?P<value>{_THING})",
        attribute="likes:{value}",
        text="{person} no longer likes {value}",
        is_list=True,
    ),
    *_over(
        rf"I{_BE} no longer {_DIET}",
        rf"I {_BE} no longer {_DIET}",
        rf"I ?{_BE} not {_DIET}{_MORE}",
        attribute="diet",
        text="{person} is no longer {value}",
    ),
    *_over(
        rf"I (?:just )?(?:{_HAVE} )?sold my (?P<value>{_OWNED})",
        rf"I {_NOT} (?:have|own) (?:a|an|my) (?P<value>{_OWNED}){_MORE}",
        rf"I no longer (?:have|own) (?:a|an|my) (?P<value>{_OWNED})",
        attribute="owns:{value}",
        text="{person} no longer has a {value}",
    ),
    *_over(
        r"I ?(?:am|'m) no longer allergic to (?P<value>" + _THING + ")",
        attribute="allergy:{value}",
        text="{person} is no longer allergic to {value}",
    ),
    *_forms(
        # who
        (
            rf"my (?:full |first )?name(?: is|'s) (?P<value>{_NAME})",
            "name",
            "{person}'s name is {value}",
        ),
        (rf"I ?{_BE} called (?P<value>{_NAME})", "name", "{person}'s name is {value}"),
        (
            rf"(?:please )?call me (?P<value>{_NAME})(?: from now on)?",
            "reply.address",
            "{person} wants to be called {value}",
            {"type": PREFERENCE},
        ),
        (
            rf"I prefer to be called (?P<value>{_NAME})",
            "reply.address",
            "{person} wants to be called {value}",
            {"type": PREFERENCE},
        ),
        (
            r"I ?(?:am|'m) (?P<value>\d\d|1[01]\d)(?: years old)?",
            "age",
            "{person} is {value} years old",
        ),
        (r"I (?:just )?turned (?P<value>\d\d|1[01]\d)", "age", "{person} is {value} years old"),
        # where
        (rf"I (?:now )?{_BEEN_THERE} in (?P<value>{_PLACE})", "home", "{person} lives in {value}"),
        (
            rf"I'(?:m|ve) (?:been )?(?:living|lived|based) in (?P<value>{_PLACE})",
            "home",
            "{person} lives in {value}",
        ),
        (
            rf"(?:I|we) ?(?:{_HAVE} )?(?:just |recently )?(?:moved|relocated) (?:back )?to (?P<value>{_PLACE})"
            rf"(?: from {_PLACE})?",
            "home",
            "{person} lives in {value}",
        ),
        (rf"my home is (?:in )?(?P<value>{_PLACE})", "home", "{person} lives in {value}"),
        (
            rf"I(?: ?{_BE}| come) (?:originally )?from (?P<value>{_PLACE})",
            "origin",
            "{person} is from {value}",
        ),
        (rf"I grew up in (?P<value>{_PLACE})", "hometown", "{person} grew up in {value}"),
        (rf"I was born in (?P<value>{_PLACE})", "birthplace", "{person} was born in {value}"),
        # work
        (
            rf"I (?:now |currently )?work (?:at|for) (?P<value>{_NAME})",
            "employer",
            "{person} works at {value}",
        ),
        (
            rf"I (?:just |recently )?(?:joined|started (?:working )?at|started a (?:new )?job (?:at|with)|got a (?:new )?job (?:at|with)) (?P<value>{_NAME})",
            "employer",
            "{person} works at {value}",
        ),
        (rf"my (?:new )?employer is (?P<value>{_NAME})", "employer", "{person} works at {value}"),
        (r"I work as an? (?P<value>(?:[\w-]+ ){0,3}?[\w-]+)", "job", "{person} works as a {value}"),
        (rf"I ?{_BE} an? (?P<value>(?:[\w-]+ ){{0,3}}?{_WORK})", "job", "{person} is a {value}"),
        # body and table
        (
            rf"I ?{_BE} (?:severely |very |deathly )?allergic to (?P<value>{_THING})",
            "allergy:{value}",
            "{person} is allergic to {value}",
            {"is_list": True},
        ),
        (
            r"I have an? (?:severe )?(?P<value>[\w-]+(?: [\w-]+)?) allergy",
            "allergy:{value}",
            "{person} is allergic to {value}",
        ),
        (rf"I ?{_BE} {_DIET}", "diet", "{person} is {value}"),
        (
            rf"I ?{_BE} (?P<value>lactose|gluten|fructose|histamine)[ -]intolerant",
            "intolerance:{value}",
            "{person} is {value} intolerant",
        ),
        (
            rf"I (?:{_NOT}|never) (?P<key>eat|drink) (?P<value>{_THING})",
            "eats:{value}",
            "{person} does not {key} {value}",
            {"value": "not {value}", "type": PREFERENCE, "is_list": True},
        ),
        # languages
        (
            rf"I speak (?:fluent |some |a little )?(?P<value>{_LANGUAGE}(?:(?:,| and|, and) {_LANGUAGE})*)(?: fluently)?",
            "speaks:{value}",
            "{person} speaks {value}",
            {"is_list": True},
        ),
        (
            rf"my (?:native language|mother tongue|first language) is (?P<value>{_LANGUAGE})",
            "language.native",
            "{person}'s native language is {value}",
        ),
        (
            rf"I ?{_BE} (?:learning|studying) (?P<value>{_LANGUAGE})",
            "learning:{value}",
            "{person} is learning {value}",
        ),
        # theirs
        (
            rf"my {_KIN}(?:'s name is| is (?:called|named)|'s (?:called|named)) (?P<value>{_NAME})",
            "{key}.name",
            "{person}'s {key} is called {value}",
        ),
        (
            rf"I have an? {_KIN} (?:called|named) (?P<value>{_NAME})",
            "{key}.name",
            "{person}'s {key} is called {value}",
        ),
        (rf"I have {_MANY} {_COUNTED}", "{key}.count", "{person} has {value} {key}"),
        (
            r"I own an? (?P<value>[\w-]+(?: [\w-]+){0,3})",
            "owns:{value}",
            "{person} has a {value}",
        ),
        (
            rf"I (?:drive|(?:just |recently )?bought) an? (?:new )?(?P<value>{_OWNED}|{_NAME})",
            "owns:{value}",
            "{person} has a {value}",
        ),
        (
            rf"I(?: have|'ve got| have got) an? (?P<value>{_OWNED})",
            "owns:{value}",
            "{person} has a {value}",
        ),
        # likes
        (
            rf"I ?{_BE} (?:a )?(?:huge |big )?(?:fan of|fond of|really into|into) (?P<value>{_THING})",
            "likes:{value}",
            "{person} likes {value}",
            {"type": PREFERENCE, "is_list": True},
        ),
        (
            rf"I {_TRULY}{_LIKE} (?P<value>{_THING})",
            "likes:{value}",
            "{person} likes {value}",
            {"type": PREFERENCE, "is_list": True},
        ),
        (
            rf"I (?:really )?{_NOT} (?:really )?(?:like|enjoy) (?P<value>{_THING})",
            "likes:{value}",
            "{person} does not like {value}",
            {"type": PREFERENCE, "value": "not {value}", "is_list": True},
        ),
        (
            rf"I {_TRULY}{_DISLIKE} (?P<value>{_THING})",
            "likes:{value}",
            "{person} does not like {value}",
            {"type": PREFERENCE, "value": "not {value}", "is_list": True},
        ),
        (
            rf"my (?:all-time )?favou?rite (?P<key>[\w-]+(?: [\w-]+)?) is (?P<value>{_THING})",
            "favourite.{key}",
            "{person}'s favourite {key} is {value}",
            {"type": PREFERENCE},
        ),
        (
            rf"(?P<value>{_NAME}) is my favou?rite (?P<key>[\w-]+(?: [\w-]+)?)",
            "favourite.{key}",
            "{person}'s favourite {key} is {value}",
            {"type": PREFERENCE},
        ),
        # how to be answered
        (
            rf"(?:please )?{_LASTING} {_ANSWER} in (?P<value>{_LANGUAGE})",
            "reply.language",
            "{person} wants replies in {value}",
            {"type": PREFERENCE},
        ),
        (
            rf"(?:please )?{_ANSWER} in (?P<value>{_LANGUAGE}) {_LASTING}",
            "reply.language",
            "{person} wants replies in {value}",
            {"type": PREFERENCE},
        ),
        (
            rf"I prefer (?:answers|replies|responses) in (?P<value>{_LANGUAGE})",
            "reply.language",
            "{person} wants replies in {value}",
            {"type": PREFERENCE},
        ),
        (
            rf"(?:please )?(?:{_LASTING} )?keep your (?:answers|replies|responses) (?P<value>short|brief|concise|long|detailed|simple)",
            "reply.length",
            "{person} wants {value} replies",
            {"type": PREFERENCE},
        ),
        (
            r"I prefer (?P<value>short|brief|concise|long|detailed) (?:answers|replies|responses)",
            "reply.length",
            "{person} wants {value} replies",
            {"type": PREFERENCE},
        ),
        (
            r"(?:please )?(?:don't|do not|never|stop) (?:ever )?us(?:e|ing) (?P<key>emojis?|bullet points|markdown|tables|slang|jargon|exclamation marks)",
            "reply.{key}",
            "{person} wants replies without {key}",
            {"type": PREFERENCE, "value": "no"},
        ),
        (
            rf"(?:please )?{_LASTING} use (?P<key>emojis?|bullet points|markdown|tables)",
            "reply.{key}",
            "{person} wants replies with {key}",
            {"type": PREFERENCE, "value": "yes"},
        ),
        (
            rf"(?:please )?(?:{_LASTING} )?use (?P<value>metric|imperial) units",
            "reply.units",
            "{person} wants {value} units",
            {"type": PREFERENCE},
        ),
    ),
)
INTRODUCTION = re.compile(rf"I ?{_BE}\s(?P<value>{_NAME})".replace(" ", r"\s"), re.IGNORECASE)
"""Only behind a greeting: "I'm German" has no name."""
NAMED_KIN = re.compile(
    rf"(?i:my\s{_KIN.replace(' ', chr(92) + 's')}),?\s(?P<value>[A-Z][a-z'-]+),?\s(?:is|was|has|had|will|does|loves|likes|lives|works|just|and I)\b.*"
)
"""Name in "my wife Anna works in Bern"; her work is not about the speaker."""
BIRTHDAY = re.compile(r"(?i:my birthday(?:'s| is)|I was born) (?:on )?(?:the )?(?P<value>.+)")
