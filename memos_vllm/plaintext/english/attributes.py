"""Attributes of claims: one canonical slug per property, from rules and from models.

A newer claim about the same subject and attribute supersedes an older one.  A property with one
value (`home`, `employer`, `reply.language`) is one attribute; one with several values has the value
in the attribute (`likes:tea`, `speaks:german`), so that these do not supersede each other.  A
dislike of tea is `likes:tea` with the value `not tea`: it supersedes the liking.
"""

from __future__ import annotations

import re
import unicodedata

from memos_vllm.plaintext.english.spelling import one_spelling

MULTIPLE = (
    "likes",
    "owns",
    "speaks",
    "learning",
    "allergy",
    "intolerance",
    "eats",
    "plays",
    "drinks",
)
"""Attributes with the value in their name."""
SINGLE = (
    *("name", "age", "home", "origin", "hometown", "birthplace", "employer", "job", "birthday"),
    *("birth.year", "diet", "language.native", "spouse.name", "reply.language", "reply.length"),
    *("reply.address", "reply.emojis", "reply.units", "reply.tone"),
)
_LONGEST_SLUG = 80
_LONGEST = 300
# Canonical name: other names of the attribute, as slugs.
_NAMES = """
home: city town country location residence address lives-in live-in lives current-city place-of-residence
  home-city home-country city-of-residence hometown-now current-home where-they-live current-address
employer: company works-at works-for work-at work-for workplace place-of-work employed-by current-employer
  current-company firm
job: occupation profession job-title role works-as work-as work title career position trade vocation
  line-of-work current-job employment current-role
name: full-name first-name called is-called
birthday: birth-date date-of-birth born born-on birthdate bday dob
origin: from comes-from born-in-country nationality country-of-origin home-nation
birthplace: born-in place-of-birth birth-place
age: years-old current-age
likes: like love loves enjoys hobby hobbies interest interests fan-of pastime pastimes
dislikes: dislike hates hate does-not-like doesnt-like
owns: own has have possesses drives owned bought
speaks: speak language languages spoken-language
allergy: allergic-to allergies allergic
diet: dietary-preference dietary diet-type
language.native: native-language mother-tongue first-language native-tongue
reply.language: answer-language response-language preferred-language
reply.address: nickname preferred-name wants-to-be-called
phone: phone-number telephone telephone-number cell cellphone cell-phone cell-number cell-phone-number mobile
  mobile-phone mobile-number mobile-phone-number tel contact-number
email: e-mail mail mail-address email-address e-mail-address
"""
_SAME = {
    other: name.strip()
    for line in _NAMES.replace("\n  ", " ").strip().splitlines()
    for name, _, others in [line.partition(":")]
    for other in others.split()
}
_RELATIVES = """
mother: mom mum mommy mummy mama mam ma
father: dad daddy papa pa pops
grandmother: grandma granny gran nan nana
grandfather: grandpa granddad grandad gramps
spouse: wife husband partner hubby wifey better-half significant-other
fiance: fianc\u00e9 fianc\u00e9e fiancee
child: kid
children: kids
brother: bro
sister: sis
flatmate: roommate housemate
boss: manager supervisor
colleague: coworker co-worker workmate
cat: kitten kitty
dog: puppy doggo pup
rabbit: bunny
"""
_RELATIVE = {
    other: name
    for line in _RELATIVES.strip().splitlines()
    for name, _, others in [line.partition(":")]
    for other in others.split()
}
_THINGS = {
    **dict.fromkeys(("apartment", "flat"), "flat"),
    **dict.fromkeys(("bicycle", "bike", "pushbike"), "bike"),
    **dict.fromkeys(("motorcycle", "motorbike"), "motorbike"),
    **dict.fromkeys(("automobile", "car"), "car"),
    **dict.fromkeys(("television", "telly", "tv"), "tv"),
    **dict.fromkeys(("cellphone", "smartphone", "phone"), "phone"),
    **dict.fromkeys(("movie", "film"), "film"),
    **dict.fromkeys(("movies", "films"), "films"),
}
"""Words for the same thing, and the word of keys."""


def slug(text: str) -> str:
    """Casefold, strip accents, one spelling, join words by "-"; letters of other scripts stay."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    joined = re.sub(r"[\W_]+", "-", plain).strip("-")
    return one_spelling(joined)[:_LONGEST_SLUG].strip("-")


def thing(text: str) -> str:
    """Slug of a thing that is liked or owned: an apartment is a `flat`."""
    return "-".join(_THINGS.get(word, word) for word in slug(text).split("-"))


def relative(word: str) -> str:
    """Canonical slug of a relative, animal or kind of thing: "mum" and "mom" are `mother`."""
    qualifier, _, last = slug(word).rpartition("-")
    whole = slug(word)
    if whole in _RELATIVE:
        return _RELATIVE[whole]
    name = _RELATIVE.get(last, _THINGS.get(last, last))
    return f"{qualifier}-{name}" if qualifier else name


def canonical(attribute: str, value: str | None) -> tuple[str | None, str | None]:
    """(attribute, value) in the names of `reader.by_rules`, from a model's free choice of names."""
    first, _, rest = attribute.strip().partition(":")
    dotted = ".".join(part for piece in first.split(".") if (part := slug(piece)))
    dotted = re.sub(r"^(?:current|present|new|latest)-", "", dotted)
    name = _SAME.get(dotted, _SAME.get(dotted.replace(".", "-"), dotted))
    if (
        "." in dotted
        and name == dotted
        and (match := re.fullmatch(r"([^.]+)\.(name|count)", dotted))
    ):
        name = f"{relative(match[1])}.{match[2]}"
    elif match := re.fullmatch(r"(.+)-name", name):
        name = f"{relative(match[1])}.name"
    elif match := re.fullmatch(r"favou?rite[-.](.+)", name):
        name = f"favourite.{relative(match[1])}"
    what = thing(value or rest)
    if name == "dislikes":
        name, value = "likes", value and f"not {value}"
    if name in MULTIPLE:
        name = f"{name}:{what}" if what else ""
    elif rest and slug(rest):
        name = f"{name}:{slug(rest)}"
    return (name[:_LONGEST] or None), value
