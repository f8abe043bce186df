"""Attributes of claims: one canonical slug per property, from rules and from models.

A newer claim about the same subject and attribute supersedes an older one.  A property with one
value (`home`, `employer`, `reply.language`) is one attribute; one with several values has the value
in the attribute (`likes:tea`, `speaks:german`), so that these do not supersede each other.  A
dislike of tea is `likes:tea` with the value `not tea`: it supersedes the liking.
"""

from __future__ import annotations

import re
import unicodedata

MULTIPLE = ("likes", "owns", "speaks", "learning", "allergy", "intolerance", "eats", "plays")
"""Attributes with the value in their name."""
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
    """Casefold, strip accents, join words by "-"; letters of other scripts stay."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", "-", plain).strip("-")[:_LONGEST_SLUG].strip("-")


def relative(word: str) -> str:
    """Canonical slug of a relative or animal: "mum" and "mom" are `mother`."""
    folded = " ".join(word.casefold().split())
    return slug(_RELATIVE.get(folded, folded))


def canonical(attribute: str, value: str | None) -> tuple[str | None, str | None]:
    """(attribute, value) in the names of `reader.by_rules`, from a model's free choice of names."""
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
