"""Table of statements that people make about themselves: form of the clause → claim.

A form matches a whole clause in its plain form (`clauses.plain_form`: "I am", "do not", without adverbs),
so that a clause with additional content, or about another person, matches none.
"""

from __future__ import annotations

import re

from memos_vllm.plaintext.english.changes import ENDINGS
from memos_vllm.plaintext.english.forms import PREFERENCE, Form, forms
from memos_vllm.plaintext.english.vocabulary import (
    ANSWER,
    BEEN_THERE,
    COUNTED,
    DIET,
    DISLIKE,
    KEY,
    KIN,
    LANGUAGE,
    LASTING,
    LIKE,
    MANY,
    MORE,
    NAME,
    NEW,
    NOT,
    OWNED,
    PERSON_OR_PET,
    PLACE,
    TEMPERAMENT,
    THING,
    WORK,
)

_V = rf"(?P<value>{THING})"
_HIRED = (
    r"(?:have )?(?:joined|started (?:working |work |out )?(?:at|for|with)|started a (?:new )?(?:job|position|role) (?:at|with)"
    r"|(?:got|landed|took|found|accepted) a (?:new )?(?:job|position|role) (?:at|with)|changed jobs to|switched jobs to"
    r"|(?:got|was|have been|been) (?:hired|recruited|employed) (?:by|at)|went to work (?:at|for))"
)
_CALLED = r"(?:'s name is|'s (?:new )?name is| is (?:called|named)|'s (?:called|named)| goes by| has been renamed(?: to)?)"
_LINK = r"(?:is|are|remains|became|has become|have become|(?:has )?(?:changed|switched) to)"
_NOT_KEEN = (
    rf"(?:am not (?:a {TEMPERAMENT}fan of|(?:too |very |that |so |particularly )?(?:into|fond of|keen on))"
    rf"|{NOT} care for|am no fan of|avoid)"
)
_UNITS = r"(?:answers|replies|responses)"

FORMS: tuple[Form, ...] = (
    *ENDINGS,  # first: "I no longer live in Paris" is no home
    *forms(  # who
        (rf"my {NEW}(?:full |first )?name(?: is|'s| {_LINK}) (?P<value>{NAME})", "name", "{person}'s name is {value}"),
        (rf"I am (?:called|named) (?P<value>{NAME})", "name", "{person}'s name is {value}"),
        (rf"I (?:have )?changed my name to (?P<value>{NAME})", "name", "{person}'s name is {value}"),
        (r"I am (?P<value>\d\d|1[01]\d)(?: years old| years of age)?", "age", "{person} is {value} years old"),
        (r"I (?:have )?turned (?P<value>\d\d|1[01]\d)", "age", "{person} is {value} years old"),
    ),
    *forms(
        (rf"(?:please |you can |you may )?call me (?P<value>{NAME})(?: from now on)?", "reply.address", "{person} wants to be called {value}", {"has_casual": False}),
        (rf"I (?:prefer to be called|go by) (?P<value>{NAME})", "reply.address", "{person} wants to be called {value}", {"has_casual": False}),
        type=PREFERENCE,
    ),
    *forms(  # where; moves are read by `moves`
        (rf"I {BEEN_THERE} in (?P<value>{PLACE})", "home", "{person} lives in {value}"),
        (rf"I live (?:at|on) [\w .'-]{{3,40}} in (?P<value>{PLACE})", "home", "{person} lives in {value}"),
        (rf"I am based out of (?P<value>{PLACE})", "home", "{person} lives in {value}"),
        (rf"my {NEW}(?:home|city|home city|place of residence) {_LINK} (?:in )?(?P<value>{PLACE})", "home", "{person} lives in {value}"),
        (rf"(?P<value>{PLACE}) is (?:my {NEW}home|home|where I live)", "home", "{person} lives in {value}"),
        (rf"I (?:call (?P<value>{PLACE}) home)", "home", "{person} lives in {value}"),
        (rf"I (?:have )?made (?P<value>{PLACE}) my (?:new )?home", "home", "{person} lives in {value}"),
        (rf"I(?: am| come) (?:originally )?from (?P<value>{PLACE})", "origin", "{person} is from {value}"),
        (rf"I grew up in (?P<value>{PLACE})", "hometown", "{person} grew up in {value}"),
        (rf"I was born in (?P<value>{PLACE})", "birthplace", "{person} was born in {value}"),
    ),
    *forms(  # work
        (rf"I (?:work|am working|am employed) (?:at|for|by) (?P<value>{NAME})", "employer", "{person} works at {value}"),
        (rf"I {_HIRED} (?P<value>{NAME})", "employer", "{person} works at {value}"),
        (rf"I (?:have )?left (?:my (?:old )?job at )?{NAME} (?:for|to join|to work (?:at|for)) (?P<value>{NAME})", "employer", "{person} works at {value}"),
        (rf"I (?:have )?(?:quit|left) {NAME} and (?:joined|went to) (?P<value>{NAME})", "employer", "{person} works at {value}"),
        (rf"I (?:changed|switched) (?:jobs|employers|companies) from {NAME} to (?P<value>{NAME})", "employer", "{person} works at {value}"),
        (rf"(?P<value>{NAME}) (?:(?:has )?hired me|is where I work)", "employer", "{person} works at {value}"),
        (rf"my {NEW}(?:employer|company|workplace|firm|job) {_LINK} (?:at |with )?(?P<value>{NAME})", "employer", "{person} works at {value}", {"has_casual": False}),
        (r"I (?:work|am working) as an? (?P<value>(?:[\w-]+ ){0,3}?[\w-]+)", "job", "{person} works as a {value}"),
        (rf"I (?:am|became|have become) an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})", "job", "{person} is a {value}"),
        (rf"I (?:have )?(?:got|landed|found|started|took) (?:a (?:new )?)?(?:job|position|role|work) as an? (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})", "job", "{person} is a {value}", {"also": ("employer", "{person} has a new job")}),
        (rf"I (?:got|was|have been) promoted to (?P<value>(?:[\w-]+ ){{0,3}}?{WORK})", "job", "{person} is a {value}"),
        (rf"my {NEW}(?:job|occupation|profession|job title|title|position|role) {_LINK} (?:an? )?(?P<value>(?:[\w-]+ ){{0,3}}?{WORK})", "job", "{person} is a {value}"),
    ),
    *forms(  # how to be reached
        (rf"my {NEW}(?:(?:cell|mobile|tele)?(?:phone)? ?(?:phone )?number|mobile|cell|phone) {_LINK} (?P<value>\+?[\d][\d ()/.-]{{4,20}}\d)", "phone", "{person}'s phone number is {value}"),
        (rf"my {NEW}e-?mail(?: address)? {_LINK} (?P<value>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)", "email", "{person}'s e-mail address is {value}"),
    ),
    *forms(  # body and table
        (rf"I am (?:severely |very |deathly |highly |mildly )?allergic to {_V}", "allergy:{value}", "{person} is allergic to {value}", {"is_list": True}),
        (r"I have an? (?:severe |bad |mild )?(?P<value>[\w-]+(?: [\w-]+)?) allergy", "allergy:{value}", "{person} is allergic to {value}"),
        (rf"I (?:am|became|have become|turned|went|have gone) {DIET}", "diet", "{person} is {value}"),
        (r"I am (?P<value>lactose|gluten|fructose|histamine)[ -]intolerant", "intolerance:{value}", "{person} is {value} intolerant"),
        (rf"I (?:{NOT}|never) (?P<key>eat|drink) {_V}", "eats:{value}", "{person} does not {key} {value}", {"value": "not {value}", "type": PREFERENCE, "is_list": True}),
    ),
    *forms(  # languages and play
        (rf"I speak (?:fluent |some |a little )?(?P<value>{LANGUAGE}(?:(?:,| and|, and) {LANGUAGE})*)(?: fluently)?", "speaks:{value}", "{person} speaks {value}", {"is_list": True}),
        (rf"my (?:native language|mother tongue|first language) is (?P<value>{LANGUAGE})", "language.native", "{person}'s native language is {value}"),
        (rf"I (?:am|have started|started|began) (?:learning|studying) (?P<value>{LANGUAGE})", "learning:{value}", "{person} is learning {value}"),
        (r"I play the (?P<value>piano|violin|cello|guitar|bass|drums|flute|saxophone|trumpet|clarinet|harp|organ|banjo|ukulele)", "plays:{value}", "{person} plays the {value}"),
    ),
    *forms(  # theirs
        (rf"my {NEW}{KIN}{_CALLED} (?P<value>{NAME})", "{key}.name", "{person}'s {key} is called {value}"),
        (rf"my {NEW}{PERSON_OR_PET} is (?P<value>{NAME})", "{key}.name", "{person}'s {key} is called {value}", {"has_casual": False}),
        (rf"(?:I|we) (?:named|call|called|renamed) (?:the|my) {NEW}{KIN} (?:to )?(?P<value>{NAME})", "{key}.name", "{person}'s {key} is called {value}"),
        (rf"(?P<value>{NAME}) is what (?:I|we) (?:named|call|called) (?:the|my) {KIN}", "{key}.name", "{person}'s {key} is called {value}"),
        (rf"(?P<value>{NAME}) is (?:the name of my {NEW}{KIN})", "{key}.name", "{person}'s {key} is called {value}"),
        (rf"I (?:have|got|adopted) an? (?:new )?{KIN}(?: (?:called|named)|,? (?:and |whose )?(?:(?:her|his|its) )?name is) (?P<value>{NAME})", "{key}.name", "{person}'s {key} is called {value}"),
        (rf"I have {MANY} {COUNTED}", "{key}.count", "{person} has {value} {key}"),
        (r"I own an? (?P<value>[\w-]+(?: [\w-]+){0,3})", "owns:{value}", "{person} has a {value}"),
        (rf"I (?:drive|(?:have )?bought|(?:have )?got) an? (?:new )?(?P<value>{OWNED}|{NAME})", "owns:{value}", "{person} has a {value}", {"has_casual": False}),
        (rf"I (?:have|have got) an? (?P<value>{OWNED})", "owns:{value}", "{person} has a {value}"),
        (rf"I (?:have )?(?:traded|swapped|exchanged) (?:in )?my {OWNED} (?:in )?for an? (?:new )?(?P<value>{OWNED}|{NAME})", "owns:{value}", "{person} has a {value}"),
    ),
    *forms(  # likes
        (rf"I am (?:a )?{TEMPERAMENT}(?:fan of|fond of|into|keen on) {_V}", "likes:{value}", "{person} likes {value}"),
        (rf"I (?:do )?(?:particularly |especially |quite )?{LIKE} {_V}", "likes:{value}", "{person} likes {value}"),
        (rf"nothing beats {_V}", "likes:{value}", "{person} likes {value}"),
        (rf"I have always (?:liked|loved|enjoyed|adored) {_V}", "likes:{value}", "{person} likes {value}"),
        (rf"I (?:have )?(?:started liking|come to like|grown to like|fallen in love with|fell in love with) {_V}", "likes:{value}", "{person} likes {value}"),
        type=PREFERENCE,
        is_list=True,
    ),
    *forms(
        (rf"I prefer (?P<value>short|brief|concise|long|detailed) {_UNITS}", "reply.length", "{person} wants {value} replies"),
        (rf"I prefer {_UNITS} in (?P<value>{LANGUAGE})", "reply.language", "{person} wants replies in {value}"),
        (r"I prefer (?P<value>metric|imperial) units", "reply.units", "{person} wants {value} units"),
        (rf"I prefer (?P<value>{THING}) (?P<key>to|over|rather than|instead of) (?P<other>{THING})", "likes:{value}", "{person} prefers {value} {key} {other}"),
        (rf"I prefer {_V}", "likes:{value}", "{person} prefers {value}"),
        type=PREFERENCE,
    ),
    *forms(
        (rf"I {NOT} (?:like|enjoy) {_V}", "likes:{value}", "{person} does not like {value}"),
        (rf"I {DISLIKE} {_V}(?:{MORE})?", "likes:{value}", "{person} does not like {value}"),
        (rf"I {_NOT_KEEN} {_V}", "likes:{value}", "{person} does not like {value}"),
        type=PREFERENCE,
        value="not {value}",
        is_list=True,
    ),
    *forms(
        (rf"my {NEW}(?:favou?rite|fave) {KEY} (?:used to be|was) (?:{THING}),? (?:but )?(?:it is|it has changed to|it has become) {_V}", "favourite.{key}", "{person}'s favourite {key} is {value}"),
        (rf"my {NEW}(?:favou?rite|fave) {KEY} (?:has )?(?:changed|switched|went) from (?:{THING}) to {_V}", "favourite.{key}", "{person}'s favourite {key} is {value}"),
        (rf"I (?:have )?changed my favou?rite {KEY} to {_V}", "favourite.{key}", "{person}'s favourite {key} is {value}"),
        (rf"my {NEW}(?:favou?rite|fave) {KEY} {_LINK} {_V}", "favourite.{key}", "{person}'s favourite {key} is {value}"),
        (rf"(?P<value>{THING}) {_LINK} my {NEW}(?:favou?rite|fave) {KEY}", "favourite.{key}", "{person}'s favourite {key} is {value}"),
        type=PREFERENCE,
    ),
    *forms(  # how to be answered
        (rf"(?:please )?{LASTING} {ANSWER} in (?P<value>{LANGUAGE})", "reply.language", "{person} wants replies in {value}"),
        (rf"(?:please )?{ANSWER} in (?P<value>{LANGUAGE}) {LASTING}", "reply.language", "{person} wants replies in {value}"),
        (rf"(?:please )?(?:{LASTING} )?keep your {_UNITS} (?P<value>short|brief|concise|long|detailed|simple)", "reply.length", "{person} wants {value} replies"),
        (r"(?:please )?(?:do not|never|stop) (?:ever )?us(?:e|ing) (?P<key>emojis?|bullet points|markdown|tables|slang|jargon|exclamation marks)", "reply.{key}", "{person} wants replies without {key}", {"value": "no"}),
        (rf"(?:please )?{LASTING} use (?P<key>emojis?|bullet points|markdown|tables)", "reply.{key}", "{person} wants replies with {key}", {"value": "yes"}),
        (rf"(?:please )?(?:{LASTING} )?use (?P<value>metric|imperial) units", "reply.units", "{person} wants {value} units"),
        type=PREFERENCE,
    ),
)  # fmt: skip
INTRODUCTION = re.compile(rf"I ?(?:am|'m)\s(?P<value>{NAME})", re.IGNORECASE)
"""Only behind a greeting: "I'm German" has no name."""
NAMED_KIN = re.compile(
    rf"(?i:my\s{KIN.replace(' ', chr(92) + 's')}),?\s(?P<value>[A-Z][a-z'-]+),?\s(?:is|was|has|had|will|does|loves|likes|lives|works|just|and I)\b.*"
)
"""Name in "my wife Anna works in Bern"; her work is not about the speaker."""
BIRTHDAY = re.compile(r"(?i:my birthday(?:'s| is)|I was born) (?:on )?(?:the )?(?P<value>.+)")
