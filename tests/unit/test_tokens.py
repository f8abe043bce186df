"""Tokens in every script, and retrieval by them."""

from __future__ import annotations

import asyncio

import pytest

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.plaintext.languages import language_of
from memos_vllm.plaintext.tokens import tokenize
from tests.conftest import principal

FACTS = {
    "chinese": {
        "我最喜欢的饮料是绿茶。": "我喜欢喝什么饮料？",
        "我的猫叫小白。": "我的猫叫什么名字？",
        "我在医院当护士。": "我在医院做什么工作？",
        "我对花生过敏。": "我对什么过敏？",
        "我姐姐住在上海。": "我姐姐住在哪里？",
        "我每天早上骑自行车上班。": "我怎么去上班？",
        "我的生日是五月三号。": "我的生日是哪一天？",
        "我正在学习弹钢琴。": "我在学习什么乐器？",
    },
    "japanese": {
        "好きな飲み物は緑茶です。": "好きな飲み物は何ですか？",
        "猫の名前はシロです。": "猫の名前は何ですか？",
        "病院で看護師として働いています。": "病院で何の仕事をしていますか？",
        "ピーナッツアレルギーがあります。": "何のアレルギーがありますか？",
        "姉は大阪に住んでいます。": "姉はどこに住んでいますか？",
        "毎朝自転車で会社に行きます。": "会社にどうやって行きますか？",
        "誕生日は五月三日です。": "誕生日はいつですか？",
        "ピアノを習っています。": "何を習っていますか？",
    },
    "korean": {
        "제가 좋아하는 음료는 녹차예요.": "제가 좋아하는 음료가 뭐예요?",
        "우리 고양이 이름은 나비예요.": "고양이 이름이 뭐예요?",
        "저는 병원에서 간호사로 일해요.": "병원에서 무슨 일을 해요?",
        "저는 땅콩 알레르기가 있어요.": "무슨 알레르기가 있어요?",
        "언니는 부산에 살아요.": "언니는 어디에 살아요?",
        "제 생일은 오월 삼일이에요.": "제 생일이 언제예요?",
    },
    "thai": {
        "เครื่องดื่มที่ฉันชอบคือชาเขียว": "เครื่องดื่มที่ฉันชอบคืออะไร",
        "แมวของฉันชื่อข้าวปั้น": "แมวของฉันชื่ออะไร",
        "ฉันทำงานเป็นพยาบาลที่โรงพยาบาล": "ฉันทำงานอะไรที่โรงพยาบาล",
        "ฉันแพ้ถั่วลิสง": "ฉันแพ้อะไร",
        "พี่สาวอยู่ที่เชียงใหม่": "พี่สาวอยู่ที่ไหน",
    },
    "hindi": {
        "मेरा पसंदीदा पेय हरी चाय है।": "मेरा पसंदीदा पेय क्या है?",
        "मेरी बिल्ली का नाम मोती है।": "मेरी बिल्ली का नाम क्या है?",
        "मैं अस्पताल में नर्स हूँ।": "मैं अस्पताल में क्या काम करता हूँ?",
        "मुझे मूंगफली से एलर्जी है।": "मुझे किससे एलर्जी है?",
        "मेरी बहन पुणे में रहती है।": "मेरी बहन कहाँ रहती है?",
    },
    "arabic": {
        "مشروبي المفضل هو الشاي الأخضر.": "ما هو مشروبي المفضل؟",
        "اسم قطتي لولو.": "ما اسم قطتي؟",
        "أعمل ممرضة في المستشفى.": "ماذا أعمل في المستشفى؟",
        "عندي حساسية من الفول السوداني.": "من ماذا عندي حساسية؟",
        "أختي تسكن في دمشق.": "أين تسكن أختي؟",
    },
    "russian": {
        "Мой любимый напиток — зелёный чай.": "Какой у меня любимый напиток?",
        "Мою кошку зовут Муся.": "Как зовут мою кошку?",
        "Я работаю медсестрой в больнице.": "Кем я работаю в больнице?",
        "У меня аллергия на арахис.": "На что у меня аллергия?",
        "Моя сестра живёт в Казани.": "Где живёт моя сестра?",
    },
    "german": {
        "Mein Lieblingsgetränk ist grüner Tee.": "Was ist mein Lieblingsgetränk?",
        "Meine Katze heißt Minka.": "Wie heißt meine Katze?",
        "Ich arbeite als Krankenschwester im Krankenhaus.": "Was arbeite ich im Krankenhaus?",
        "Ich bin gegen Erdnüsse allergisch.": "Wogegen bin ich allergisch?",
        "Meine Schwester wohnt in Dresden.": "Wo wohnt meine Schwester?",
    },
}


@pytest.mark.parametrize("language", FACTS)
def test_a_fact_is_the_first_result_for_a_question_in_its_language(system, language):
    alice = principal("alice")
    for fact in FACTS[language]:
        system.create(alice, [NewCube(payload=ExplicitPayload(content=[Item(text=fact)]))])
    missed = []
    for fact, question in FACTS[language].items():
        vector = asyncio.run(system.embed_question(alice, question))
        found = system.search(alice, question, vector, 1).found
        if not found or found[0].recalled.item.text != fact:
            missed.append(question)
    assert not missed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ich wohne in München", "Wo habe ich gewohnt? In Munchen"),
        ("Vivo en Málaga con mis hermanas", "¿En Malaga vive mi hermana?"),
        ("私は東京に住んでいます", "東京"),
        ("ＡＢＣ１２３", "abc123"),
        ("Die Straße ist lang", "STRASSE"),
        ("Я живу в Москве", "Москва"),
    ],
)
def test_forms_of_a_word_share_a_token(one, other):
    assert set(tokenize(one)) & set(tokenize(other))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the dog is in the garden", "english"),
        ("der Hund ist im Garten", "german"),
        ("le chien est dans le jardin", "french"),
        ("el perro está en el jardín", "spanish"),
        ("o cachorro dele está com uma bola", "portuguese"),
        ("il cane è nel giardino", "italian"),
        ("de hond is in de tuin", "dutch"),
        ("собака в саду", "russian"),
        ("الكلب في الحديقة", "arabic"),
        ("कुत्ता बगीचे में है", "hindi"),
        ("xyzzy", "english"),
        ("", "english"),
    ],
)
def test_the_language_is_read_from_script_and_function_words(text, language):
    assert language_of(text.casefold().split()) == language


def test_a_question_of_function_words_has_no_tokens_in_english():
    assert tokenize("What is it?") == []
    assert tokenize("是什么？"), "n-grams of other scripts are kept"
