"""Splitting of text into sentences: what ends one, and what does not, in several scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.prompt.sentences import sentences

ONE = [
    "My dentist is called Dr. Smith.",
    "My cat is called Mr. Whiskers",
    "I live in St. Gallen.",
    "I live at no. 5 Mill Lane",
    "We met at Mt. Fuji in May",
    "My professor is J. R. R. Tolkien",
    "I work with Harry S. Truman",
    "My sister has a Ph.D. in chemistry",
    "I read e.g. Kafka and Mann",
    "I like big cities, i.e. London",
    "It costs 3.50 euros at the most",
    "My site is example.com and it works",
    "Version 2.1.3 is out",
    "She lives in the U.S. with her son",
    "I met Mrs. Jones and Prof. Lee yesterday",
    "I work at Acme Inc. as a nurse",
    "My flight is on Jan. 5 from Oslo",
    "See p. 12 of the book",
    "Martin Luther King Jr. wrote it",
    "I wake up at 7 a.m. every day",
    "Sammy Davis Jr. and Dr. John played",
    "It is approx. 5 km away",
    "I like it... sometimes",
    '"Really?" he asked me',
    "Arsenal vs. Chelsea was great",
    "Capt. Ahab and Lt. Uhura",
    "Washington D.C. is far",
    "Wir wohnen z.B. in Bonn",
    "Fr. Meier und Hr. Schulz",
    "Mr. and Mrs. Gray are neighbours",
]


@pytest.mark.parametrize("text", ONE)
def test_abbreviations_initials_and_numbers_end_no_sentence(text: str) -> None:
    assert sentences(text) == [text]


SEVERAL = [
    ("I moved. I live in Oslo now.", ["I moved.", "I live in Oslo now."]),
    ("No. I moved to Oslo.", ["No.", "I moved to Oslo."]),
    ("Is it no. 5? Yes!", ["Is it no. 5?", "Yes!"]),
    ("I work at Acme Inc. I like it.", ["I work at Acme Inc.", "I like it."]),
    ("I live on Main St. It is loud.", ["I live on Main St.", "It is loud."]),
    ("I take vitamin C. My wife does not.", ["I take vitamin C.", "My wife does not."]),
    ("i moved. now i live in oslo.", ["i moved.", "now i live in oslo."]),
    ("Wow!!! Great. Thanks", ["Wow!!!", "Great.", "Thanks"]),
    ("She has a Ph.D. She teaches.", ["She has a Ph.D.", "She teaches."]),
    ("I got up at 7 a.m. Then I ran.", ["I got up at 7 a.m.", "Then I ran."]),
    ("It was 2019. In 2020 I left.", ["It was 2019.", "In 2020 I left."]),
    ("- tea\n- coffee", ["tea", "coffee"]),
    ("1. Buy milk.\n2) Call Ann.", ["Buy milk.", "Call Ann."]),
    ("\u2022 I live in Bern.\n\u2022 I ski.", ["I live in Bern.", "I ski."]),
    ('He said "go." I went.', ['He said "go."', "I went."]),
    ("我住在北京。我喜欢茶！你呢？", ["我住在北京。", "我喜欢茶！", "你呢？"]),
    ("東京に住んでいます。猫がいます。", ["東京に住んでいます。", "猫がいます。"]),
    ("「はい。」と言った。次。", ["「はい。」", "と言った。", "次。"]),
    (
        "मैं दिल्ली में रहता हूँ। मुझे चाय पसंद है।",
        ["मैं दिल्ली में रहता हूँ।", "मुझे चाय पसंद है।"],
    ),
    ("أين تسكن؟ أسكن في القاهرة.", ["أين تسكن؟", "أسكن في القاهرة."]),
    ("میں لاہور میں رہتا ہوں۔ آپ؟", ["میں لاہور میں رہتا ہوں۔", "آپ؟"]),
    ("ฉันอยู่กรุงเทพ\nฉันชอบชา", ["ฉันอยู่กรุงเทพ", "ฉันชอบชา"]),
    ("Я живу в Киеве. Люблю чай.", ["Я живу в Киеве.", "Люблю чай."]),
    ("¿Dónde vives? Vivo en Lima.", ["¿Dónde vives?", "Vivo en Lima."]),
]


@pytest.mark.parametrize(("text", "parts"), SEVERAL)
def test_sentences_end_at_marks_of_any_script_and_at_lines(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@given(st.text(alphabet='aI .!?。\n-1Dr"…'))
def test_a_text_is_split_without_loss_of_words(text: str) -> None:
    kept = "".join(sentences(text))
    for char in "aDrI。!?":
        assert kept.count(char) == text.count(char)
