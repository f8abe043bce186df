"""Support of an item by its turn: words, names, numbers and negation, in any script."""

from __future__ import annotations

import pytest

from memos_vllm.plaintext.reader.support import Source, folded, is_negated, is_stated


@pytest.mark.parametrize(
    ("turn", "value"),
    [
        ("Ich wohne in Köln", "Köln"),
        ("J'habite à Besançon", "besançon"),
        ("Я живу в Москве", "Москва"),
        ("我住在成都", "成都"),
        ("私は大阪に住んでいます", "大阪"),
        ("ฉันอาศัยอยู่ที่เชียงใหม่", "เชียงใหม่"),
        ("मैं वाराणसी में रहता हूँ", "वाराणसी"),
        ("أعيش في القاهرة", "القاهرة"),
        ("제 강아지 이름은 보리입니다", "보리"),
        ("عندي ٣ قطط", "3"),
        ("Mám 12 sliepok", "12"),
    ],
)
def test_a_value_in_the_turns_own_script_is_supported(turn: str, value: str) -> None:
    assert Source(turn).has_all(value, "")


@pytest.mark.parametrize(
    ("turn", "value"),
    [
        ("Ich wohne in Köln", "Bonn"),
        ("Meine Tochter heißt Maria", "Mario"),
        ("我住在成都", "上海"),
        ("我住在成都", "Chengdu"),
        ("私は大阪に住んでいます", "京都"),
        ("ฉันอาศัยอยู่ที่เชียงใหม่", "กรุงเทพ"),
        ("मैं वाराणसी में रहता हूँ", "दिल्ली"),
        ("أعيش في القاهرة", "دبي"),
        ("عندي ٣ قطط", "4"),
    ],
)
def test_a_value_that_the_turn_lacks_is_not_supported(turn: str, value: str) -> None:
    source = Source(turn)
    assert not (source.has_all(value, "") and source.has_names(f"x {value}", ""))


def test_a_sentence_in_another_order_and_form_is_supported_and_an_invention_is_not() -> None:
    source = Source("Letztes Jahr sind wir mit zwei Katzen nach Bremen gezogen.")
    assert source.has_most("Sam ist letztes Jahr nach Bremen gezogen", "Sam")
    assert not source.has_most("Sam arbeitet als Pilot am Flughafen", "Sam")
    source = Source("去年我们带着两只猫搬到了成都。")
    assert source.has_most("我们搬到了成都", "Sam")
    assert not source.has_most("他在银行当经理", "Sam")


@pytest.mark.parametrize(
    ("affirmed", "negated"),
    [
        ("I eat pork", "I don't eat pork"),
        ("Ich trinke Alkohol", "Ich trinke keinen Alkohol"),
        ("J'aime le fromage", "Je n'aime pas le fromage"),
        ("Sé conducir", "No sé conducir"),
        ("Eu como carne", "Eu não como carne"),
        ("Mangio carne", "Non mangio carne"),
        ("Я ем мясо", "Я не ем мясо"),
        ("我吃香菜", "我不吃香菜"),
        ("私は車を持っています", "私は車を持っていません"),
        ("मैं मांस खाता हूँ", "मैं मांस नहीं खाता"),
        ("أحب القهوة", "لا أحب القهوة"),
        ("고기를 먹어요", "고기를 먹지 않아요"),
        ("ฉันกินเนื้อ", "ฉันไม่กินเนื้อ"),
    ],
)
def test_a_statement_never_supports_its_negation(affirmed: str, negated: str) -> None:
    assert is_negated(negated)
    assert not is_negated(affirmed)
    assert is_stated(Source(negated), negated, "", "")
    assert not is_stated(Source(negated), affirmed, "", "")
    assert not is_stated(Source(affirmed), negated, "", "")


def test_the_negation_of_one_clause_is_not_that_of_its_neighbour() -> None:
    source = Source("We no longer have the Volvo, we drive an electric Kia these days.")
    assert is_stated(source, "we drive an electric Kia these days", "Kia", "me")
    assert not is_stated(source, "we have the Volvo", "Volvo", "me")


def test_a_statement_before_a_question_is_stated_and_the_question_is_not() -> None:
    source = Source("My flight to Lisbon leaves on 14 March, can you suggest what to pack?")
    assert is_stated(source, "My flight to Lisbon leaves on 14 March", "Lisbon", "me")
    for asked in ("Do I live in Rome, or in Oslo?", "Wohne ich in Rom?", "我住在罗马吗\uff1f"):
        assert not is_stated(Source(asked), asked.rstrip("?\uff1f"), "", "me")


@pytest.mark.parametrize(
    ("turn", "claimed", "true"),
    [
        (
            "My father was born in Naples.",
            "Sam was born in Naples",
            "Sam's father was born in Naples",
        ),
        ("Meine Schwester wohnt in Graz.", "Sam wohnt in Graz", "Meine Schwester wohnt in Graz"),
        ("Ma mère est pilote.", "Sam est pilote", "Ma mère est pilote"),
        ("Mi hermano vive en Quito.", "Sam vive en Quito", "Mi hermano vive en Quito"),
        ("我妈妈是医生。", "我是医生", "我妈妈是医生"),
    ],
)
def test_what_is_said_of_a_relative_is_not_stated_of_the_person(
    turn: str, claimed: str, true: str
) -> None:
    assert not is_stated(Source(turn), claimed, "", "Sam")
    assert is_stated(Source(turn), true, "", "Sam")


@pytest.mark.parametrize(
    "turn",
    [
        "Wenn ich Millionär wäre, würde ich nach Kanada ziehen.",
        "Si j'avais un bateau, je ferais le tour du monde.",
        "Si yo fuera rico, viviría en Ibiza.",
        "如果我有一百万,我就去环游世界。",
        "もし猫を飼ったら、タマと名付けたいです。",
        "请帮我把这段话翻译成英文\uff1a我是一名医生。",
        'Übersetze ins Englische: "Ich bin Ärztin und wohne in Wien."',
    ],
)
def test_imagined_and_translated_words_state_nothing(turn: str) -> None:
    assert not is_stated(Source(turn), turn.rstrip(".。"), "", "me")


def test_digits_and_accents_are_folded_and_marks_of_other_scripts_stay() -> None:
    assert folded("Córdoba ٣४") == "cordoba 34"
    assert folded("हिन्दी") == "हिन्दी"


@pytest.mark.parametrize(
    "turn",
    [
        "Haha, and I am the Queen of England.",
        "Claro, y yo soy el Papa, jajaja.",
        "Ja sicher, ich bin der Kaiser, hihihi",
        "我是皇帝哈哈哈",
        "저는 왕이에요 ㅋㅋㅋ",
        "Я король, \u0445\u0430\u0445\u0430\u0445\u0430",
    ],
)
def test_a_sentence_with_laughter_states_nothing(turn: str) -> None:
    assert not is_stated(Source(turn), turn, "", "me")


def test_words_that_look_like_laughter_are_none() -> None:
    for turn in ("I live in Hanoi with Lola", "Ich habe einen Hahn", "Vivo en La Jara"):
        assert is_stated(Source(turn), turn, "", "me")


@pytest.mark.parametrize(
    ("turn", "part", "is_fragment"),
    [
        ("Claro, vivo en Quito", "Claro", True),
        ("Claro, vivo en Quito", "vivo en Quito", False),
        ("I moved to Oslo and I work as a nurse there", "I work", True),
        ("I moved to Oslo and I work as a nurse there", "I work as a nurse", False),
        ("Ich rauche", "Ich rauche", False),
        ("私は大阪に住んでいて、緑茶が大好きです", "住んで", True),
        ("私は大阪に住んでいて、緑茶が大好きです", "緑茶が大好きです", False),
        ("我住在成都", "我住在成都", False),
    ],
)
def test_a_copied_fragment_is_no_statement(turn: str, part: str, is_fragment: bool) -> None:
    assert Source(turn).copies(part)
    assert Source(turn).is_fragment(part) is is_fragment
