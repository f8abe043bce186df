"""Personal data by form and checksum: e-mail addresses, phone numbers, national ids.

A number that is only long is none of these: an id of bare digits needs its name in front of it, as one
order number in ten has the checksum of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date

Spans = Iterator[tuple[int, int]]

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"(?<![\w.+/:-])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(0?\d{1,5}\))?(?:[ ./-]?\d{1,5}){2,6}(?![\w-]|[.,]\d)"
    r"|(?<![\w.+/:-])\(\d{3}\) ?\d{3}-\d{4}(?![\w-])|(?<![\w.+/:-])[2-9]\d{2}-[2-9]\d{2}-\d{4}(?![\w-])"
)
_PHONE_LABELLED = re.compile(
    r"\b(?:phone|mobile|cell|tel(?:ephone|\u00e9fono|efon|efono|\u00e9phone)?|handy(?:nummer)?|m\u00f3vil|portable|cellulare|telefone"
    r"|\u0442\u0435\u043b\u0435\u0444\u043e\u043d|\u7535\u8bdd|\u96fb\u8a71|\uc804\ud654)\b[^\d\n+]{0,20}(?P<number>\+?\(?\d(?:[ ./()-]{0,2}\d){6,14})(?![\w-]|[.,]\d)",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[ .\-/]")


def emails(text: str) -> Spans:
    for at in re.finditer("@", text):  # from each @, so that no run of letters is read twice
        start = max(0, at.start() - 65)
        for match in _EMAIL.finditer(text, start, min(len(text), at.end() + 256)):
            if match.start() < at.start() < match.end():
                yield match.span()
                break


def phones(text: str) -> Spans:
    taken = []
    for match in _PHONE.finditer(text):
        digits = sum(character.isdigit() for character in match[0])
        if 8 <= digits <= 15:
            taken.append(match.span())
    for match in _PHONE_LABELLED.finditer(text):
        if not any(
            start < match.end("number") and match.start("number") < end for start, end in taken
        ):
            taken.append(match.span("number"))
    yield from sorted(taken)


# -- national ids ---------------------------------------------------------------------------------


def _digits(text: str) -> list[int]:
    return [int(character) for character in text if character.isdecimal()]


def _weighted(digits: list[int], *weights: int) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def is_cpf(text: str) -> bool:
    """Brazil: two check digits, mod 11."""
    found = _digits(text)
    if len(found) != 11 or len(set(found)) == 1:
        return False
    first = _weighted(found[:9], *range(10, 1, -1)) * 10 % 11 % 10
    second = _weighted(found[:10], *range(11, 1, -1)) * 10 % 11 % 10
    return found[9:] == [first, second]


def is_dni(text: str) -> bool:
    """Spain: DNI and NIE, a letter of the number mod 23."""
    plain = _SEPARATORS.sub("", text).upper()
    number = plain[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdecimal() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


def is_steuer_id(text: str) -> bool:
    """Germany: ISO 7064 mod 11,10; one digit occurs two or three times among the first ten."""
    found = _digits(text)
    if len(found) != 11 or found[0] == 0 or len(set(found[:10])) not in (8, 9):
        return False
    product = 10
    for digit in found[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == found[10]


def is_nir(text: str) -> bool:
    """France: 13 digits and their complement mod 97; Corsica is 2A and 2B."""
    plain = _SEPARATORS.sub("", text).upper()
    body = plain[:13].replace("2A", "19").replace("2B", "18")
    if len(plain) != 15 or not (body + plain[13:]).isdecimal():
        return False
    month = int(plain[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(body) % 97 == int(plain[13:])


_ODD = tuple(
    int(value)
    for value in "1 0 5 7 9 13 15 17 19 21 1 0 5 7 9 13 15 17 19 21 2 4 18 20 11 3 6 8 12 14 16 10 22 25 24 23".split()  # noqa: SIM905
)


def is_codice_fiscale(text: str) -> bool:
    """Italy: a check letter over 15 characters."""
    plain = text.upper()
    total = sum(
        _ODD["0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(c)]
        if position % 2 == 0
        else int(c, 36) - (10 if c.isalpha() else 0)
        for position, c in enumerate(plain[:15])
    )
    return chr(ord("A") + total % 26) == plain[15]


def is_bsn(text: str) -> bool:
    """Netherlands: the test of eleven."""
    found = _digits(text)
    return len(found) == 9 and any(found) and _weighted(found, 9, 8, 7, 6, 5, 4, 3, 2, -1) % 11 == 0


def is_pesel(text: str) -> bool:
    """Poland: a check digit, mod 10."""
    found = _digits(text)
    return len(found) == 11 and _weighted(found, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1) % 10 == 0


def is_resident_id(text: str) -> bool:
    """China: a date of birth and a check character, ISO 7064 mod 11-2."""
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = _weighted(_digits(text[:17]), 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[total % 11] == text[17].upper()


def is_aadhaar(text: str) -> bool:
    """India: Verhoeff's check digit."""
    found = _digits(text)
    if len(found) != 12 or found[0] < 2:
        return False
    check = 0
    for position, digit in enumerate(reversed(found)):
        for _ in range(position % 8):
            digit = int("1576283094"[digit])
        check = _dihedral(check, digit)
    return check == 0


def _dihedral(one: int, other: int) -> int:
    """Product in the dihedral group of ten elements."""
    if one < 5:
        return (one + other) % 5 if other < 5 else 5 + (one + other - 5) % 5
    return 5 + (one - 5 - other) % 5 if other < 5 else (one - other) % 5


def is_nhs(text: str) -> bool:
    """United Kingdom: mod 11."""
    found = _digits(text)
    check = 11 - _weighted(found[:9], *range(10, 1, -1)) % 11
    return len(found) == 10 and check != 10 and check % 11 == found[9]


_ALONE: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(rf"(?<![\w.-])(?:{form})(?![\w-]|[.,]\d)"), check)
    for form, check in (
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", is_cpf),
        (r"[XYZxyz]-?\d{7}-?[A-Za-z]", is_dni),
        (r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-4]\d) ?(?:\d{2}|2[ABab]) ?\d{3} ?\d{3} ?\d{2}", is_nir),
        (r"[A-Za-z]{6}\d{2}[A-EHLMPR-Ta-ehlmpr-t]\d{2}[A-Za-z]\d{3}[A-Za-z]", is_codice_fiscale),
        (r"[1-9]\d{5}(?:19|20)\d{2}[01]\d[0-3]\d{4}[\dXx]", is_resident_id),
    )
)
_LABELLED: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (
        re.compile(
            rf"\b(?:{label})\b[^\d\n]{{0,24}}(?P<number>{form})(?![\w-]|[.,]\d)", re.IGNORECASE
        ),
        check,
    )
    for label, form, check in (
        ("cpf", r"\d{11}", is_cpf),
        (r"dni|nif|nie", r"\d{8}[ -]?[A-Z]", is_dni),
        (
            r"steuer-?id(?:entifikationsnummer|nr)?|idnr|tax id",
            r"\d{2} ?\d{3} ?\d{3} ?\d{3}",
            is_steuer_id,
        ),
        ("bsn|burgerservicenummer", r"\d{9}|\d{4}\.\d{2}\.\d{3}", is_bsn),
        ("pesel", r"\d{11}", is_pesel),
        ("aadhaar|aadhar", r"\d{4} ?\d{4} ?\d{4}", is_aadhaar),
        ("nhs", r"\d{3} ?\d{3} ?\d{4}", is_nhs),
    )
)


def national_ids(text: str) -> Spans:
    found = [m.span() for form, check in _ALONE for m in form.finditer(text) if check(m[0])]
    found += [
        m.span("number")
        for form, check in _LABELLED
        for m in form.finditer(text)
        if check(m["number"])
    ]
    end = 0
    for start, stop in sorted(found):
        if start >= end:
            yield start, stop
            end = stop
