"""Whether a turn states what an item says: words, names, numbers and negation, in any script.

Scripts with spaces are compared by words and their inflected forms; scripts without spaces (Chinese,
Japanese, Thai, Lao, Khmer, Burmese) by pairs of characters.  Digits of all scripts are the same.
Negations are known in the languages of `_NEGATION`; of other languages nothing is known of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from memos_vllm.plaintext.english.clauses import is_earnest, is_sure, stripped_clause
from memos_vllm.prompt.sentences import EMPTY, sentences

_SUPPORT, _SUPPORT_PAIRS = 0.6, 0.5
"""Share of an item's words (pairs of characters) that its turn must have."""
_SHORT = 3
"""Letters of a word that may be a function word of a language without a list of them."""
_WORD_START = 4
"""First letters that two forms of a word share: "lives", "live", "living"."""
_WHOLE_WORDS, _WHOLE_CHARACTERS, _WHOLE_LETTERS, _WHOLE_SHARE = 3, 8, 12, 0.6
"""A copied part of a turn states something with so many words (characters, of scripts without spaces), or
with one word less, of so many letters or as such a share of its clause."""
_UNSPACED = (
    *((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007)),
)
_QUESTION = re.compile(r"[?\uFF1F\u061F]\s*[\"'\u00bb\u201d)]*\s*$")
_BOUND = "|".join(
    (
        # English
        r"not|no|never|none|neither|nor|without|cannot|\w+n['\u2019]t|unable|hate[sd]?|dislike[sd]?|detests?"
        r"|loathes?|stopped|quit",
        r"nicht|kein\w*|nie(?:mals)?|ohne|weder|hass[et]\w*",  # German
        r"ne|n['\u2019]\w+|pas|jamais|sans|aucune?|d[ée]teste\w*",  # French
        r"no|nunca|jam[áa]s|sin|ning[úu]n\w*|tampoco|odi[oae]",  # Spanish
        r"n[ãa]o|nem|sem|nenhum\w*|odeio|odeia",  # Portuguese
        r"non|mai|senza|nessun\w*",  # Italian
        r"niet|geen|nooit|zonder|haat",  # Dutch
        r"inte|ikke|aldrig|aldri|ej|utan|uten|uden|hatar",  # Swedish, Danish, Norwegian
        r"не|нет|никогда|без|ни|нельзя|ненавижу|ненавидит",  # Russian
        r"nie|nigdy|bez|nienawidz\w*",  # Polish
        r"değil\w*|yok|hiç|asla|\w+[ae]m[ae]m|\w+m[i\u0131]yor\w*|\w+muyor\w*|\w+müyor\w*",  # Turkish
        r"नहीं|नही|न|मत|बिना|कभी नहीं",  # Hindi
        r"لا|لم|لن|ليس|لست|ليست|بدون|غير",  # Arabic
        r"안|못|없\w*|않\w*|아니\w*|\w+지 않\w*|\w+지 못\w*",  # Korean
        r"không|chưa|chẳng",  # Vietnamese
        r"tidak|bukan|belum|tanpa|jangan",  # Indonesian
    )
)
_NEGATION = re.compile(
    rf"(?<!\w)(?:{_BOUND})(?!\w)"
    r"|[不没沒无無未别別非]|な(?:い|く|かっ|し)|ませ[んぬ]|嫌い|やめ|辞め|ไม่|มิ"  # Chinese, Japanese, Thai
    r"|\w(?:지|질)\s?(?:않|못)|싫",
    re.IGNORECASE,
)
_IMAGINED = re.compile(
    r"(?<!\w)(?:w[äa]re|h[äa]tte|w[üu]rde|angenommen|stell dir vor"  # German
    r"|si j['\u2019](?:étais|avais)|imagin(?:e|ons|a|emos)|supongamos|supposons"
    r"|si (?:yo )?(?:fuera|tuviera|pudiera)|ojal[áa]|se (?:eu )?(?:fosse|tivesse)|se (?:io )?(?:fossi|avessi)"
    r"|если бы|бы|gdyby\w*|als ik .{0,30} (?:was|had|zou))(?!\w)"
    r"|如果|要是|假如|假设|假設|もし|たら、|だったら|만약|만일|अगर|यदि",
    re.IGNORECASE,
)

_CLAUSE = re.compile(
    r"\s*[,;:\uff0c\u3001\uff1b\uff1a\u060c]+\s+|[\uff0c\u3001\uff1b\u060c]|\s+[-\u2013\u2014]\s+"
    r"|(?<=[\u3040-\u9fff]),|\s+(?:but|aber|sondern|mais|pero|mas|ma|maar|но|और|लेकिन|ama)\s+|但是?|けれ?ど|ですが"
)
_ASKS = re.compile(
    r"(?:do|does|did|is|are|am|was|were|can|could|would|should|will|shall|may|might|have|has|had|what|which|who|whose"
    r"|whom|why|how|where|when|whether|if)\b"
)
_LAUGHS = re.compile(
    r"(?<!\w)(?:(?:a?h[aei]){2,}h?|(?:j[aei]){2,}j?|lo+l+|rofl|lmao|xd+|mdr|ptdr|(?:\u0445\u0430){2,}\u0445?|k{3,}|rs{2,})(?!\w)"
    r"|哈{2,}|ㅋ{2,}|ㅎ{2,}|w{3,}(?!\w)|[(\uff08]?笑[)\uff09]|\u0647{2,}|[\U0001F600-\U0001F606\U0001F923]",
    re.IGNORECASE,
)
_NO = re.compile(
    r"^\W*(?:no|nope|nein|non|não|нет|nee|不是?|いいえ)\s*[,.!:;\uff0c\u3001\u3002]\s*", re.I
)
_FIRST = re.compile(
    r"(?:i|i['\u2019]\w+|we|we['\u2019]\w+|ich|wir|je|j['\u2019]\w+|nous|yo|nosotr[oa]s|eu|nós|io|noi|я|мы|मैं|हम|ik|wij"
    r"|أنا|نحن|저는|나는|우리는)\b|我|私|僕|俺",
    re.IGNORECASE,
)
_OTHERS_TEXT = re.compile(
    r"(?:übersetz|korrigier|tradui|corrige|traduz|traduc|перевед|исправь|翻译|翻譯|润色|潤色|改写|翻訳|訳して|添削|要約|번역)"
    r".*[:\uff1a\"\u201c\u201d\u00ab\u00bb「」『』]",
    re.IGNORECASE | re.DOTALL,
)
"""A task on a text that may be another author's, in other languages than English (`clauses`)."""
_OWNED = re.compile(
    r"(?:and |but |und |et |y |e )?(?:my|our|meine?r?|unsere?r?|mon|ma|mes|notre|nos|mis?|nuestr[oa]s?|meus?|minhas?"
    r"|(?:il |la |i |le )?(?:mio|mia|miei|mie)|мо[йяёи]|наш[аеи]?|mijn|ons|onze)\s+"
    r"(?:(?:older|younger|elder|big|little|best|late|ex|new|old|current|große|kleine|grande?|petite?|mejor)\w*[\s-]+)?"
    r"(?P<owned>[^\W\d_]+)",
    re.IGNORECASE,
)
_OWNED_UNSPACED = re.compile(
    r"(?:我|我们|私|僕|俺)(?:的|の)?(?P<owned>妈|爸|父|母|哥|姐|弟|妹|女儿|儿子|孩子|老公|老婆|妻|丈夫|夫|朋友|友|同事|同僚|老板|上司"
    r"|娘|息子|兄|姉|祖)"
)


def is_negated(text: str) -> bool:
    return _NEGATION.search(text) is not None


def folded(text: str) -> str:
    """NFKC, casefolded, without accents of Latin, Greek and Cyrillic letters, digits in ASCII."""
    kept = []
    for char in unicodedata.normalize("NFKD", text).casefold():
        if "\u0300" <= char <= "\u036f":
            continue
        digit = unicodedata.decimal(char, None)
        kept.append(char if digit is None else str(digit))
    return unicodedata.normalize("NFC", "".join(kept))


def words_and_pairs(text: str) -> tuple[list[str], list[str]]:
    """(words of scripts with spaces, character pairs of scripts without); both folded."""
    words: list[str] = []
    pairs: list[str] = []
    for word in _words(folded(text)):
        if _is_unspaced(word[0]):
            pairs += [word[i : i + 2] for i in range(len(word) - 1)] or [word]
        else:
            words.append(word)
    return words, pairs


def _words(text: str) -> Iterable[str]:
    """Runs of letters, marks and numbers, cut between scripts with and without spaces."""
    word = ""
    for char in text + " ":
        is_part = unicodedata.category(char)[0] in "LMN"
        if word and (not is_part or _is_unspaced(char) != _is_unspaced(word[0])):
            yield word
            word = ""
        if is_part:
            word += char


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return code >= 0x0E00 and any(low <= code <= high for low, high in _UNSPACED)


class Source:
    """A turn's text, prepared for comparison with items."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._flat = "".join(_words(folded(text)))
        words, pairs = words_and_pairs(text)
        self._words, self._pairs = set(words), set(pairs)

    def has_all(self, text: str, about: str) -> bool:
        """Whether the turn has each content word, number and character pair of a short text.

        Args:
            about: subject and person, whose names the turn may lack.
        """
        words, pairs = words_and_pairs(text)
        own = _about(about)
        if any(not self.has(word) for word in words if not _is_empty(word) and word not in own):
            return False
        return not pairs or "".join(_words(folded(text))) in self._flat or self._share(pairs) >= 1

    def has_most(self, text: str, about: str) -> bool:
        """Whether the turn has most content words or character pairs of a sentence."""
        for part in sorted(_names_of(about), key=len, reverse=True):
            text = re.sub(
                rf"(?<!\w){re.escape(part)}(?!\w)" if part.isascii() else re.escape(part),
                " ",
                text,
                flags=re.IGNORECASE,
            )
        words, pairs = words_and_pairs(text)
        own = _about(about)
        wanted = [w for w in words if w not in own and not _is_empty(w)]
        wanted = [w for w in wanted if len(w) > _SHORT or w in self._words]
        if not wanted and not pairs:
            return False
        if wanted and sum(map(self.has, wanted)) < _SUPPORT * len(wanted):
            return False
        return not pairs or self._share(pairs) >= _SUPPORT_PAIRS

    def has_numbers(self, text: str, about: str) -> bool:
        numbers = {word for word in words_and_pairs(text)[0] if any(map(str.isdigit, word))}
        return all(n in self._words or n in _about(about) for n in numbers)

    def has_names(self, text: str, about: str) -> bool:
        """Whether the turn has each capitalised word of a sentence but its first."""
        names = re.findall(r"(?<=[^\W_])[^\w.!?\u3002]+([^\W\d_]\w*)", text)
        capitals = [name for name in names if name[0].isupper()]
        own = _about(about)
        for name in capitals:
            for word in words_and_pairs(name)[0]:
                if word not in own and not _is_empty(word) and not self._has_name(word):
                    return False
        return True

    def has(self, word: str) -> bool:
        """Whether the turn has the word or another form of it."""
        if word in self._words:
            return True
        if "\uac00" <= word[0] <= "\ud7a3":  # Korean puts particles behind a word
            return len(word) > 1 and any(other.startswith(word) for other in self._words)
        start = word[: max(_WORD_START, len(word) - 3)]
        return len(word) >= _WORD_START and any(
            other.startswith(start) or (len(other) >= _WORD_START and word.startswith(other))
            for other in self._words
        )

    def copies(self, text: str) -> bool:
        """Whether a text is a part of the turn, word for word."""
        part = " ".join(_words(folded(text)))
        return (bool(part) and f" {part} " in f" {' '.join(_words(folded(self.text)))} ") or (
            bool(part) and _is_unspaced(part[0]) and part in " ".join(_words(folded(self.text)))
        )

    def is_fragment(self, text: str) -> bool:
        """Whether a copied text is too small a part of its clause to state anything."""
        words = _words(folded(text))
        sizes = [(len(word), _is_unspaced(word[0])) for word in words]
        unspaced = sum(size for size, is_unspaced in sizes if is_unspaced)
        spaced = sum(not is_unspaced for _, is_unspaced in sizes)
        if spaced >= _WHOLE_WORDS or unspaced >= _WHOLE_CHARACTERS:
            return False
        _, near = self.nearest(text)
        share = len("".join(_words(folded(text)))) / max(1, len("".join(_words(folded(near)))))
        if spaced < _WHOLE_WORDS - 1 and unspaced < _WHOLE_CHARACTERS // 2:
            return True
        letters = sum(size for size, _ in sizes)
        return share < _WHOLE_SHARE and letters < _WHOLE_LETTERS

    def owner_of(self, text: str, person: str) -> str:
        """Of whom a copied text is: the person ("we drive"), the noun behind "my"; "": unknown."""
        _, near = self.nearest(text)
        unspaced = _OWNED_UNSPACED.match(near)
        if _FIRST.match(text) and unspaced is None:
            return person
        owned = _OWNED.match(near) or unspaced
        return owned["owned"] if owned is not None else ""

    def mentions(self, word: str) -> bool:
        """Whether the text has a word, or characters of a script without spaces."""
        plain = folded(word)
        return self.has(plain) or (_is_unspaced(plain[0]) and plain in self._flat)

    def _has_name(self, name: str) -> bool:
        """The name itself, or an inflected form: at most two letters differ, behind five."""
        if name in self._words:
            return True
        start = name[: max(5, len(name) - 1)]
        return len(name) >= 5 and any(
            other.startswith(start) and len(other) <= len(name) + 2 for other in self._words
        )

    def _share(self, pairs: list[str]) -> float:
        return sum(pair in self._pairs or pair in self._flat for pair in pairs) / len(pairs)

    def nearest(self, text: str) -> tuple[str, str]:
        """(the sentence that shares the most with a text, those of its clauses that share anything)."""
        wanted = _content(text)

        def shared(part: str) -> int:
            return len(wanted & _content(part))

        sentence = max(sentences(self.text), key=shared, default="")
        clauses = [part for part in _CLAUSE.split(sentence) if part.strip()]
        left, near = set(wanted), set()
        for clause in sorted(clauses, key=shared, reverse=True):
            if left & _content(clause):
                near.add(clause)
                left -= _content(clause)
        return sentence, ", ".join(clause for clause in clauses if clause in near)


def _content(text: str) -> set[str]:
    words, pairs = words_and_pairs(text)
    return {word for word in words if not _is_empty(word)} | set(pairs)


def is_stated(source: Source, text: str, value: str, subject: str) -> bool:
    """Whether the nearest sentence of a turn is an earnest statement with the text's negation.

    "My father was born in Naples" does not state that the person was: what a sentence begins with ("my
    father") must be in the text.
    """
    if not is_earnest(source.text) or _OTHERS_TEXT.search(source.text):
        return False
    sentence, near = source.nearest(f"{text} {value}")
    if _LAUGHS.search(sentence):
        return False
    if _QUESTION.search(sentence) and _begins(sentence, text):
        sentence = near  # "My flight leaves on Friday, what should I pack?"
    if _QUESTION.search(sentence) or _IMAGINED.search(sentence):
        return False
    clause = stripped_clause(sentence)
    if not _is_named(source, text, subject):
        owned = _OWNED.match(near) or _OWNED_UNSPACED.match(near)
        said = Source(f"{subject} {text} {value}")
        if owned is not None and not said.mentions(owned["owned"]):
            return False
    # "No, I moved to Oslo" is no negation.
    return is_sure(clause) and is_negated(_NO.sub("", near)) == is_negated(_NO.sub("", text))


def _is_named(source: Source, text: str, subject: str) -> bool:
    """Whether the turn itself says of whom a text is: by the subject's name, or by "I" in a copy."""
    if _FIRST.match(text) and not _OWNED_UNSPACED.match(text) and source.copies(text):
        return True
    name = subject.partition(" ")[0]
    return bool(name) and source.has_all(name, "")


def _begins(sentence: str, text: str) -> bool:
    """Whether a sentence begins with a text and goes on with another clause."""
    whole, part = (" ".join(_words(folded(each))) for each in (stripped_clause(sentence), text))
    if not whole.startswith(part) or _ASKS.match(part):
        return False
    rest = len(part.split())
    return any(len(list(_words(clause))) <= rest for clause in _CLAUSE.split(sentence)[:1])


def _is_empty(word: str) -> bool:
    return word in EMPTY or word == "s"


def _about(about: str) -> set[str]:
    return set(words_and_pairs(about)[0])


def _names_of(about: str) -> list[str]:
    return [part for part in re.split(r"\s+", about) if part]
