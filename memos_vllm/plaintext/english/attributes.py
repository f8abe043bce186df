"""Names of what is claimed: one slug for one property, however it was said.

A newer claim about the same subject and attribute supersedes an older one.  What somebody has one of
(`home`, `employer`, `reply.language`) is one attribute; what they have several of carries the thing in
the attribute (`likes:tea`, `speaks:german`), so that one does not retire another.  To dislike tea is
`likes:tea` with the value `not tea`: it does retire the liking.
"""

from __future__ import annotations

import re
import unicodedata

MULTIPLE = ("likes", "owns", "speaks", "learning", "allergy", "intolerance", "eats", "plays")
"""Attributes that carry the value."""
SINGLE = (
    *("name", "age", "home", "origin", "hometown", "birthplace", "employer", "job", "birthday"),
    *("birth.year", "diet", "language.native", "spouse.name", "reply.language", "reply.length"),
    *("reply.address", "reply.emojis", "reply.units", "reply.tone"),
)
_LONGEST_SLUG = 80
_LONGEST = 300
_SAME = {
    **dict.fromkeys(
        [
            "city",
            "town",
            "country",
            "location",
            "residence",
            "address",
            "lives-in",
            "live-in",
            "lives",
            "current-city",
            "place-of-residence",
            "home-city",
            "home-country",
            "city-of-residence",
            "hometown-now",
        ],
        "home",
    ),
    **dict.fromkeys(
        [
            "company",
            "works-at",
            "works-for",
            "work-at",
            "work-for",
            "workplace",
            "place-of-work",
            "employed-by",
        ],
        "employer",
    ),
    **dict.fromkeys(
        ["occupation", "profession", "job-title", "role", "works-as", "work", "title"], "job"
    ),
    **dict.fromkeys(["full-name", "first-name", "called", "is-called"], "name"),
    **dict.fromkeys(["birth-date", "date-of-birth", "born", "born-on", "birthdate"], "birthday"),
    **dict.fromkeys(["from", "comes-from", "born-in-country", "nationality"], "origin"),
    **dict.fromkeys(["born-in", "place-of-birth", "birth-place"], "birthplace"),
    **dict.fromkeys(["years-old"], "age"),
    **dict.fromkeys(
        ["like", "love", "loves", "enjoys", "hobby", "hobbies", "interest", "interests", "fan-of"],
        "likes",
    ),
    **dict.fromkeys(["dislike", "hates", "hate", "does-not-like", "doesnt-like"], "dislikes"),
    **dict.fromkeys(["own", "has", "have", "possesses", "drives", "owned", "bought"], "owns"),
    **dict.fromkeys(["speak", "language", "languages", "spoken-language"], "speaks"),
    **dict.fromkeys(["allergic-to", "allergies", "allergic"], "allergy"),
    **dict.fromkeys(["dietary-preference", "dietary", "diet-type"], "diet"),
    **dict.fromkeys(["native-language", "mother-tongue", "first-language"], "language.native"),
    **dict.fromkeys(
        ["answer-language", "response-language", "preferred-language"], "reply.language"
    ),
    **dict.fromkeys(["nickname", "preferred-name", "wants-to-be-called"], "reply.address"),
}
_RELATIVE = {
    **dict.fromkeys(("mom", "mum", "mommy", "mummy"), "mother"),
    **dict.fromkeys(("dad", "daddy"), "father"),
    **dict.fromkeys(("grandma", "granny"), "grandmother"),
    **dict.fromkeys(("grandpa", "granddad"), "grandfather"),
    **dict.fromkeys(("fiancé", "fiancée", "fiance", "fiancee"), "fiance"),
    **dict.fromkeys(("kitten", "kitty"), "cat"),
    **dict.fromkeys(("puppy", "doggo"), "dog"),
    **dict.fromkeys(("bunny",), "rabbit"),
}


def slug(text: str) -> str:
    """Lower case, without accents, words joined by "-"; letters of other scripts stay."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", "-", plain).strip("-")[:_LONGEST_SLUG].strip("-")


def relative(word: str) -> str:
    """ "mum" and "mom" are the mother."""
    folded = " ".join(word.casefold().split())
    return slug(_RELATIVE.get(folded, folded))


def canonical(attribute: str, value: str | None) -> tuple[str | None, str | None]:
    """(attribute, value) as `reader.rules` would name them, from whatever a model called it."""
    first, _, rest = attribute.strip().partition(":")
    dotted = ".".join(part for piece in first.split(".") if (part := slug(piece)))
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
        name = f"favourite.{match[1]}"
    thing = slug(value or rest)
    if name == "dislikes":
        name, value = "likes", value and f"not {value}"
    if name in MULTIPLE:
        name = f"{name}:{thing}" if thing else ""
    elif rest and slug(rest):
        name = f"{name}:{slug(rest)}"
    return (name[:_LONGEST] or None), value
