"""Redaction of secrets: what authenticates or pays is not memory.

    by checksum   payment card numbers (Luhn and the length of their network), IBAN (mod 97)
    by form       API keys and tokens of known issuers, JSON web tokens, private keys, credentials in URLs
    by label      passwords, PINs, security codes, keys and tokens, US social security numbers

A number without a valid checksum, a label or a known form stays: phone and order numbers, years,
UUIDs and ISBNs are not secrets.  Each secret is replaced by its kind: `[card number removed]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_DIGITS = re.compile(r"(?<![\w.,+/-])\d++(?:[ \u00a0.-]\d++)*+")
_NO_END = re.compile(r"[\w-]|[.,]\d")  # behind a run of digits: it goes on
_MOST_GROUPS = 5  # of a card number
_NETWORKS = re.compile(
    r"(?:4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d{2}|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|62\d{14,17}|(?:5[0678]\d{2}|6(?:304|390|7\d{2}))\d{9,15}|220[0-4]\d{12})"
)
_CARD_GROUPS = re.compile(
    r"\d{4}(?:[ \u00a0.-]\d{4}){3}(?:[ \u00a0.-]\d{1,3})?|\d{4}[ .-]\d{6}[ .-]\d{4,5}|\d+"
)
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}")
# In one piece or in groups of four, with as many digits as an IBAN has: "GT350 to the next level" is none.
_IBAN_FORM = re.compile(
    r"(?=(?:[^\d]*\d){8})(?:[A-Za-z0-9]+|[A-Za-z0-9]{4}(?:([ \u00a0-])[A-Za-z0-9]{4})(?:\1[A-Za-z0-9]{4})*(?:\1[A-Za-z0-9]{1,3})?)"
)
_IBAN_REST = re.compile(r"(?:[ \u00a0-]?[A-Za-z0-9])+")
_LONGEST_IBAN = 45  # characters, with a space behind each four
_IBAN_LENGTHS = dict(
    re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22"
        "GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21MC27MD24ME22MK19MR27MT31"
        "MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
)
_KEY = re.compile(
    r"(?<![\w-])(?:(?:sk|pk|rk)[-_][\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|hf_\w{20,}"
    r"|npm_\w{30,}|pypi-[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,}|dop_v1_\w{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_PRIVATE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_IN_URL = re.compile(r"(?<=://)[^\s/:@]{1,100}:(?P<secret>[^\s/@]{1,200})(?=@[\w.-])")
_PASSWORD_LABEL = (
    r"pass[\s-]?(?:word|code|phrase)|pwd|passwort|kennwort|mot de passe|mdp|contrase\u00f1a|clave secreta|parola d'ordine"
    r"|palavra-passe|senha|wachtwoord|\u5bc6\u7801|\u5bc6\u78bc|\u53e3\u4ee4|\u30d1\u30b9\u30ef\u30fc\u30c9"
    r"|\u6697\u8a3c\u756a\u53f7|\ube44\ubc00\ubc88\ud638|\ud328\uc2a4\uc6cc\ub4dc|\u043f\u0430\u0440\u043e\u043b\u044c"
)
_PIN_LABEL = (
    r"pin(?:[\s-]?(?:code|number|nummer))?|cvv2?|cvc2?|security code|sicherheitscode|pr\u00fcfziffer"
    r"|code (?:secret|pin|de s\u00e9curit\u00e9)|c\u00f3digo (?:secreto|pin|de seguridad|de seguran\u00e7a)"
    r"|codice (?:segreto|pin|di sicurezza)|\u043f\u0438\u043d-?\u043a\u043e\u0434|\u9a8c\u8bc1\u7801|\u5b89\u5168\u7801"
)
_KEY_LABEL = (
    r"(?:api|private|secret|access|ssh|encryption|license|licence)[\s_-]?keys?|(?:access|auth|bearer|api|refresh)[\s_-]?tokens?"
    r"|client[\s_-]?secret|api[\s-]?schl\u00fcssel|cl\u00e9 (?:api|secr\u00e8te|priv\u00e9e)|clave (?:api|privada)"
    r"|chiave (?:api|segreta|privata)|chave (?:api|secreta|privada)|api-?\u043a\u043b\u044e\u0447"
    r"|(?:api|\u8bbf\u95ee)\s?\u5bc6\u94a5|api\s?\u30ad\u30fc|api\s?\ud0a4"
)
_COPULA = (
    r"(?:(?:\\?[\"'`])?\s*(?:[:=\uff1a]|->|\u2192)\s*|\s+(?:(?:for|f\u00fcr|pour|para|per|de|du|von|of|\u0434\u043b\u044f|\u043e\u0442)\s+[^\s:=]{1,40}"
    r"(?:\s[^\s:=]{1,40}){0,3}?\s*)?(?:(?:is|was|lautet|ist|war|est|\u00e9tait|es|era|\u00e8|\u00e9|\u2014|-)\s+|[:=]\s*)|\s*(?:\u662f|\u4e3a|\u306f|\u7684\u662f|\uc740|\ub294)\s*)"
)
_SAID = r"(?:(?:now|still|also|jetzt|noch|maintenant|ahora|\u044d\u0442\u043e)\s+)?"
_VALUE = r"\\?[\"'`\u201c\u201e\u00ab\u300c]?(?P<secret>[^\s\"'`\u201c\u201d\u00ab\u00bb\u300c\u300d\u3002\uff0c,;]{3,200}?)(?=[\"'`\u201d\u201c\u00bb\u300d\u3002\uff0c,;]|[.!?]?(?:\s|$))"
# Behind a letter of another script a label begins ("我的密码"), and behind `_` ("DB_PASSWORD").
_START = r"(?<![A-Za-z0-9\u00c0-\u024f\u0400-\u04ff])"
_PASSWORD = re.compile(
    rf"{_START}(?:{_PASSWORD_LABEL})s?(?P<copula>{_COPULA}){_SAID}{_VALUE}", re.IGNORECASE
)
_PIN = re.compile(
    rf"{_START}(?:(?:{_PIN_LABEL}){_COPULA}{_SAID}|(?:cvv2?|cvc2?)\s+)(?P<secret>\d{{3,8}})(?!\d)",
    re.IGNORECASE,
)
_LABELLED_KEY = re.compile(
    rf"{_START}(?:{_KEY_LABEL})(?P<copula>{_COPULA}){_SAID}{_VALUE}", re.IGNORECASE
)
_SSN = re.compile(
    r"\b(?:ssn|social security(?: (?:number|no\.?))?)\b[^\d\n]{0,24}"
    r"(?P<secret>(?!000|666|9\d\d)\d{3}[- ]?(?!00)\d{2}[- ]?(?!0000)\d{4})(?!\d)",
    re.IGNORECASE,
)
# What each label holds, in lower case.
_PASSWORD_HINTS = (
    *(
        "pass",
        "pwd",
        "kennwort",
        "mdp",
        "contrase\u00f1a",
        "clave secreta",
        "parola d'ordine",
        "senha",
    ),
    *(
        "palavra-passe",
        "wachtwoord",
        "\u5bc6\u7801",
        "\u5bc6\u78bc",
        "\u53e3\u4ee4",
        "\u30d1\u30b9\u30ef\u30fc\u30c9",
    ),
    *(
        "\u6697\u8a3c\u756a\u53f7",
        "\ube44\ubc00\ubc88\ud638",
        "\ud328\uc2a4\uc6cc\ub4dc",
        "\u043f\u0430\u0440\u043e\u043b\u044c",
        "mot de passe",
    ),
)
_PIN_HINTS = (
    *(
        "pin",
        "cvv",
        "cvc",
        "code",
        "c\u00f3digo",
        "codice",
        "pr\u00fcfziffer",
        "\u043f\u0438\u043d",
    ),
    *("\u9a8c\u8bc1\u7801", "\u5b89\u5168\u7801"),
)
_KEY_HINTS = (
    *("key", "token", "secret", "schl\u00fcssel", "cl\u00e9 ", "clave ", "chiave ", "chave "),
    *("\u043a\u043b\u044e\u0447", "\u5bc6\u94a5", "\u30ad\u30fc", "\ud0a4"),
)
_KEY_MARKS = (
    *(
        "sk-",
        "sk_",
        "pk-",
        "pk_",
        "rk-",
        "rk_",
        "AKIA",
        "ASIA",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
    ),
    *(
        "github_pat_",
        "glpat-",
        "xox",
        "AIza",
        "ya29.",
        "hf_",
        "npm_",
        "pypi-",
        "SG.",
        "dop_v1_",
        "eyJ",
    ),
)
_BEFORE_HINT, _BEHIND_HINT = 40, 500  # characters: the longest label; label, copula and value
_BARE_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
# "My password is wrong": said of a password, and no password.
_NO_PASSWORD = frozenset(
    re.findall(
        r"\w+",
        "a an the my your our his her their its it this that these not no too so very also still now always never "
        "wrong right correct incorrect weak strong safe secure insecure long short old new lost gone stored saved "
        "written expired compromised leaked stolen hashed encrypted hidden secret required mandatory optional missing "
        "invalid valid empty blank different same unknown known changed reset set being in on at by for from with "
        "easy hard simple complex good bad fine ok okay none null true false string str field here there what which "
        "falsch richtig schwach stark sicher unsicher lang kurz alt neu weg abgelaufen nicht kein zu ein eine der die "
        "das in auf faux incorrect faible fort long court vieux nouveau perdu expir\u00e9 trop pas un une le la dans sur "
        "incorrecta d\u00e9bil fuerte segura larga corta vieja nueva perdida caducada muy no una el en sbagliata debole "
        "forte sicura lunga corta vecchia nuova persa scaduta troppo non fraca segura longa curta velha errada muito "
        "n\u00e3o uma \u043d\u0435 \u043d\u0435\u0432\u0435\u0440\u043d\u044b\u0439 \u0441\u043b\u0430\u0431\u044b\u0439 \u0441\u0442\u0430\u0440\u044b\u0439 \u043d\u043e\u0432\u044b\u0439",
    )
)

Spans = Iterator[tuple[int, int]]


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """Whether country, length and check digits (mod 97) are those of an IBAN."""
    plain = re.sub(r"[ \u00a0-]", "", text).upper()
    if len(plain) != int(_IBAN_LENGTHS.get(plain[:2], 0)):
        return False
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def may_hold(text: str) -> bool:
    """Whether a text may hold a secret: quick, and never false where it does."""
    return (
        any(character.isdigit() for character in text)
        or "-----BEGIN" in text
        or "://" in text
        or any(hint in text.lower() for hint in (*_PASSWORD_HINTS, *_KEY_HINTS))
    )


def _if_any(marks: tuple[str, ...], find: Find) -> Find:
    """Finder that looks at texts with one of the marks alone: patterns are slow, `in` is not."""
    return lambda text: find(text) if any(mark in text for mark in marks) else iter(())


def _by_label(
    pattern: re.Pattern[str], is_secret: Callable[[re.Match[str]], bool], hints: tuple[str, ...]
) -> Find:
    """Finder of a pattern's group `secret`, around the hints that each of its labels holds."""

    def find(text: str) -> Spans:
        lower = text.lower()
        if len(lower) != len(text):  # a letter that becomes two: positions would differ
            lower = "".join(c if len(c.lower()) > 1 else c.lower() for c in text)
        end = 0
        for start, stop in _around(lower, hints):
            for match in pattern.finditer(text, max(start, end), stop):
                if is_secret(match):
                    yield match.span("secret")
                    end = match.end()

    return find


def _around(text: str, hints: tuple[str, ...]) -> list[tuple[int, int]]:
    """Parts of the text around each hint, without overlap."""
    places = set()
    for hint in hints:
        place = text.find(hint)
        while place >= 0:
            places.add(place)
            place = text.find(hint, place + 1)
    parts: list[tuple[int, int]] = []
    for place in sorted(places):
        start, stop = max(0, place - _BEFORE_HINT), min(len(text), place + _BEHIND_HINT)
        if parts and start <= parts[-1][1]:
            parts[-1] = (parts[-1][0], stop)
        else:
            parts.append((start, stop))
    return parts


def _by(pattern: re.Pattern[str], is_secret: Callable[[re.Match[str]], bool]) -> Find:
    """Finder of a pattern's group `secret`, or of the whole match, where it is one."""
    group = "secret" if "secret" in pattern.groupindex else 0

    def find(text: str) -> Spans:
        for match in pattern.finditer(text):
            if is_secret(match):
                yield match.span(group)

    return find


def _cards(text: str) -> Spans:
    """Runs of digit groups in the form, length and checksum of a card number."""
    for run in _DIGITS.finditer(text):
        groups = [match.span() for match in re.finditer(r"\d+", run[0])]
        while groups and _NO_END.match(text, run.start() + groups[-1][1]) is not None:
            groups.pop()
        first = 0
        while first < len(groups):
            for last in range(min(len(groups), first + _MOST_GROUPS) - 1, first - 1, -1):
                start, end = groups[first][0], groups[last][1]
                if _is_card(run[0][start:end]):
                    yield run.start() + start, run.start() + end
                    first = last
                    break
            first += 1


def _ibans(text: str) -> Spans:
    for match in _IBAN_START.finditer(text):
        left = int(_IBAN_LENGTHS.get(match[0][:2].upper(), 0)) - 4
        rest = _IBAN_REST.match(text, match.end(), match.end() + _LONGEST_IBAN)
        if left <= 0 or rest is None:
            continue
        end = match.end()
        for position in range(rest.start(), rest.end()):
            if left and text[position].isalnum():
                left, end = left - 1, position + 1
        follows = text[end : end + 1]
        is_cut = left > 0 or (follows.isascii() and follows.isalnum())
        shown = text[match.start() : end]
        if not is_cut and _IBAN_FORM.fullmatch(shown) is not None and is_iban(shown):
            yield match.start(), end


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    if _CARD_GROUPS.fullmatch(text) is None or len(set(digits)) < 2:
        return False
    return _NETWORKS.fullmatch(digits) is not None and passes_luhn(digits)


def _is_value(match: re.Match[str]) -> bool:
    """Whether the word behind a label is a secret: not a word that is said of one."""
    value = match["secret"]
    if value.startswith("[") or value.casefold() in _NO_PASSWORD:
        return False
    if _BARE_WORD.fullmatch(value) is None:
        return len(value) >= 4
    if any(mark in match["copula"] for mark in ":=\uff1a"):
        return len(value) >= 4
    # "My password is swordfish.", not "my password is somewhere in the drawer".
    return (
        len(value) >= 4
        and re.match(r"[\"'\u201d]?\s*(?:[.!,;\u3002\uff0c]|$)", match.string[match.end() :])
        is not None
    )


def _is_key(match: re.Match[str]) -> bool:
    value = match["secret"]
    return len(value) >= 8 and not value.startswith("[") and any(c.isdigit() for c in value)


def _always(match: re.Match[str]) -> bool:
    return True


Find = Callable[[str], Spans]
SECRETS: tuple[tuple[str, Find], ...] = (
    ("private key", _if_any(("-----BEGIN",), _by(_PRIVATE, _always))),
    (
        "password",
        _if_any(("://",), _by(_IN_URL, lambda match: not match["secret"].startswith("["))),
    ),
    ("key", _if_any(_KEY_MARKS, _by(_KEY, lambda match: any(c.isdigit() for c in match[0])))),
    ("bank account", _ibans),
    ("card number", _cards),
    ("social security number", _by_label(_SSN, _always, ("ssn", "social security"))),
    ("code", _by_label(_PIN, _always, _PIN_HINTS)),
    ("password", _by_label(_PASSWORD, _is_value, _PASSWORD_HINTS)),
    ("key", _by_label(_LABELLED_KEY, _is_key, _KEY_HINTS)),
)
