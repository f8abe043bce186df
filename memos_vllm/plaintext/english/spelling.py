"""One spelling per word for keys: "color" and "colour", "organize" and "organise" are equal.

The result is a key, not text to show: "travelling" and "traveling" become `traveling`.  British forms
with `-our`, `-re`, `-ise` and `-ogue`, American ones with a single `l`.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z]+")
# Stems of the words with `-our`; "honorary", "laborious", "vigorous" have no `u` anywhere.
_OUR = re.compile(
    r"(?P<stem>(?:mis|dis|un|multi|water)?(?:arb|ard|arm|behavi|cand|clam|col|demean|endeav|fav|ferv|flav|glam|harb"
    r"|hon|hum|lab|neighb|od|parl|ranc|rig|rum|sav|savi|splend|succ|tum|val|vap|vig))or"
    r"(?P<end>|s|y|ies|ed|ing|ings|er|ers|ful|less|able|ably|ite|ites|al|hood|hoods|ly)"
)
_RE = {
    **{
        f"{stem}er": f"{stem}re"
        for stem in re.findall(
            r"\w+",
            "cent theat amphitheat met kilomet centimet millimet lit millilit fib calib sab spect lust somb",
        )
    },
    "maneuver": "manoeuvre",
}
_OTHERS = """
catalog catalogue/dialog dialogue/analog analogue/monolog monologue/defense defence/
offense offence/license licence/practise practice/gray grey/aluminum aluminium/pajamas pyjamas/
mustache moustache/donut doughnut/donuts doughnuts/yoghurt yogurt/whiskey whisky/
jewelry jewellery/plow plough/anemia anaemia/anemic anaemic/pediatrician paediatrician/
orthopedic orthopaedic/esthetic aesthetic/archeology archaeology/encyclopedia encyclopaedia/
diarrhea diarrhoea/estrogen oestrogen/gynecologist gynaecologist/leukemia leukaemia/
celiac coeliac/mold mould/tire tyre/tires tyres/program programme/programs programmes/
aging ageing/artifact artefact/skeptic sceptic/cozy cosy/fulfill fulfil/enroll enrol/
skillful skilful/airplane aeroplane/woolen woollen/math maths/mom mum/mommy mummy
"""
_WHOLE = {
    **_RE,
    **{f"{word}s": f"{to}s" for word, to in _RE.items()},
    **dict(pair.split() for pair in _OTHERS.replace("\n", "").split("/")),
}
_NOT_ISE = {
    *("size", "sized", "sizes", "sizing", "prize", "prizes", "prized", "seize", "seized", "seizes"),
    *("capsize", "maize", "resize", "resized", "resizing", "oversize", "oversized", "downsize"),
    *("downsizing", "bite", "assize"),
}
_LONGEST_WORD = 32  # letters
_ISE = re.compile(r"(?P<stem>[a-z]{3,}[iy])z(?P<end>e[drs]?|ers|ing|ations?)")
_LL = re.compile(
    r"(?P<stem>[a-z]*[aeiouy][a-z]*[^aeiouy][aeo])ll(?P<end>ed|ing|ings|ers?|ors?|ous|en)"
)


def one_spelling(text: str) -> str:
    """Each lower-case ASCII word of a text in one spelling. Idempotent."""
    return _WORD.sub(lambda match: _of_word(match[0]), text)


def _of_word(word: str) -> str:
    if len(word) > _LONGEST_WORD:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    if (match := _OUR.fullmatch(word)) is not None:
        return f"{match['stem']}our{match['end']}"
    if word not in _NOT_ISE and (match := _ISE.fullmatch(word)) is not None:
        return f"{match['stem']}s{match['end']}"
    if (match := _LL.fullmatch(word)) is not None:
        return f"{match['stem']}l{match['end']}"
    return word
