"""Language of a text, by its script and its function words, for the choice of a stemmer.

A wrong guess costs little: the words keep their letters, and only their endings stay unstemmed.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

from memos_vllm.plaintext.english.lexicon import STOP_WORDS

ENGLISH = "english"
_SCRIPTS = {
    "russian": regex.compile(r"\p{Cyrillic}"),
    "arabic": regex.compile(r"\p{Arabic}"),
    "hindi": regex.compile(r"\p{Devanagari}"),
    "greek": regex.compile(r"\p{Greek}"),
    "tamil": regex.compile(r"\p{Tamil}"),
    "armenian": regex.compile(r"\p{Armenian}"),
}
"""Snowball's stemmers of scripts other than Latin; the language most often written in each."""

_FUNCTION_WORDS = {
    "german": """der die das den dem des ein eine einen einem einer ich du er sie es wir ihr mich mir mein meine
        meinen meinem meiner dich dir dein deine sein seine und oder aber nicht kein keine ist bin bist sind war
        waren wird werden habe hast hat haben hatte wo was wer wie wann warum welche welcher welches zu zum zur im
        in am an auf aus bei mit nach von vom für über um als auch noch nur sehr wenn dass weil so dann man""",
    "french": """le la les un une des du de je tu il elle on nous vous ils elles me moi te toi se mon ma mes ton ta
        tes son sa ses notre nos votre vos leur leurs et ou mais ne pas est suis es sommes êtes sont était ai as a
        avons avez ont avait où que qui quoi quel quelle quels quelles comment quand pourquoi au aux en dans sur
        sous avec pour par chez ce cet cette ces plus très si j l d c n m qu s t""",
    "spanish": """el la los las un una unos unas de del yo tú él ella nosotros ellos ellas me mi mis te tu tus se su
        sus nuestro nuestra y o pero no es soy eres somos son era fue estoy está están he has ha hemos han había
        dónde donde qué que quién quien cuál cual cómo como cuándo cuando por para con sin en al a lo le les este
        esta estos estas ese esa muy más también ya si porque""",
    "italian": """il lo la i gli le un uno una di del della dei delle io tu lui lei noi voi loro mi mio mia miei mie
        ti tuo tua si suo sua e o ma non è sono sei siamo siete era ho hai ha abbiamo hanno aveva dove che chi cosa
        quale quali come quando perché per con senza in nel nella a al alla da dal dalla su sul questo questa
        questi queste molto più anche se c l d""",
    "portuguese": """o a os as um uma uns umas de do da dos das eu tu ele ela nós eles elas você vocês me meu minha
        meus minhas te teu tua se seu sua e ou mas não é sou és somos são era foi estou está estão tenho tem temos
        têm tinha onde que quem qual como quando porque por para com sem em no na nos nas ao à este esta esse essa
        isso muito mais também já""",
    "dutch": """de het een ik jij je hij zij ze wij we jullie mij me mijn jouw zijn haar ons onze en of maar niet
        geen is ben bent was waren heb hebt heeft hebben had waar wat wie hoe wanneer waarom welke van in op aan
        bij met naar voor over uit te om als ook nog wel heel dat die dit er""",
    "swedish": """en ett den det de jag du han hon vi ni mig min mitt mina dig din ditt sin sitt och eller men inte
        är var har hade kan ska vill där vad vem hur när varför vilken vilket av i på till från med för om som
        att också bara mycket""",
    "danish": """en et den det de jeg du han hun vi mig min mit mine dig din dit sin sit og eller men ikke er var
        har havde kan skal vil hvor hvad hvem hvordan hvornår hvorfor hvilken af i på til fra med for om som at
        også kun meget""",
    "finnish": """minä sinä hän me te he minun sinun hänen ja tai mutta ei en ole olen on ovat oli missä mikä mitä
        kuka miten milloin miksi että kun jos myös vain tämä se ne""",
    "polish": """ja ty on ona my wy oni mnie mi mój moja moje ciebie twój się i lub ale nie jest jestem są był była
        mam ma gdzie co kto jak kiedy dlaczego jaki jaka jakie w we na do z ze od za po dla że to ten ta te też
        tylko bardzo""",
    "turkish": """ben sen o biz siz onlar benim senin onun bizim bana beni sana ve veya ama değil var yok nerede
        ne kim nasıl hangi için ile gibi çok daha bu şu bir mi mı mu mü da de""",
    "russian": """я ты он она оно мы вы они мне меня мой моя моё мои тебя тебе твой твоя себя свой его её ей им их
        нас вас наш ваш и или но а не нет в во на с со к ко у о об от до из за по для при что где кто как когда
        почему какой какая какие чем это этот эта эти то тот так же ли бы уже ещё очень только был была было быть
        есть""",
    "arabic": """أنا انا أنت انت هو هي نحن هم في من إلى الى على عن مع و أو او لا ما لم لن ليس هل أين اين ماذا متى كيف
        لماذا الذي التي هذا هذه ذلك كان كانت أن ان إن كل جدا""",
    "hindi": """मैं मेरा मेरी मेरे मुझे तुम आप वह यह हम वे का की के को में से पर और या लेकिन नहीं है हैं हूँ था थी थे
        क्या कहाँ कौन कब कैसे क्यों जो भी ही तो एक बहुत""",
    "indonesian": """saya aku kamu anda dia kami kita mereka dan atau tetapi tapi tidak bukan adalah di ke dari
        yang ini itu untuk dengan pada apa siapa mana kapan mengapa bagaimana sudah akan sangat juga""",
}
_LETTERS = {
    "german": "äöüß",
    "french": "àâçèêëîïôœùû",
    "spanish": "áíñóú¿¡",
    "italian": "àèìòù",
    "portuguese": "áâãçêíóôõú",
    "swedish": "åäö",
    "danish": "æøå",
    "finnish": "äö",
    "polish": "ąćęłńóśźż",
    "turkish": "çğıöşü",
}
"""Letters that English lacks."""
FUNCTION_WORDS = {
    ENGLISH: STOP_WORDS,
    **{language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()},
}
"""Words without content, by language."""


_LANGUAGES_WITH: dict[str, list[str]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_WITH.setdefault(_word, []).append(_language)


def language_of(words: Sequence[str]) -> str:
    """Name of the text's language among Snowball's stemmers; undecided: English.

    Args:
        words: in lower case.
    """
    text = " ".join(words)
    if not text.isascii():
        letters = len(regex.findall(r"\p{L}", text))
        for language, script in _SCRIPTS.items():
            if 2 * len(script.findall(text)) > letters:
                return language
    scores = {ENGLISH: sum(word in STOP_WORDS for word in words) + 0.25}
    for word in words:
        for language in _LANGUAGES_WITH.get(word, ()):
            scores[language] = scores.get(language, 0) + 1
    if not text.isascii():
        for language, letters_of in _LETTERS.items():
            if any(letter in text for letter in letters_of):
                scores[language] = scores.get(language, 0) + 0.5
    return max(scores, key=lambda language: scores[language])
