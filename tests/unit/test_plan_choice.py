"""Choice among search results: repetitions, replies, sessions, and the excerpts of replies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.config.retrieval import RetrievalConfig
from memos_vllm.config.tree import PromptConfig
from memos_vllm.cube.model import Item
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt import layout
from memos_vllm.scheduler.excerpt import excerpt
from memos_vllm.scheduler.scheduler import MemScheduler, Tokenizer
from memos_vllm.vault.views import Recalled

WORDS = Tokenizer(count=lambda text: len(text.split()), escape=lambda text: text, context=4000)


def user(text):
    return {"role": "user", "content": text}


def result(text, score=1.0, speaker="alice", session=None, source=None, person="alice"):
    item = Item(
        id=f"{text} {source}",
        type="episode",
        text=text,
        speaker=speaker,
        session=session,
        source=source,
    )
    return Found(Recalled(item, "c", None, "v", person, 0), score, {})


def chosen(found, further=(), question="Which boat is fast?", limit=2000, places=None, **config):
    scheduler = MemScheduler(
        PromptConfig(budget_tokens=limit, context_share=1.0), RetrievalConfig(**config)
    )
    budget = scheduler.budget(WORDS, None, 10)
    draft = scheduler.plan(
        [user(question)], [], found, budget, WORDS, further=further, places=places
    )
    texts = {each.recalled.item.id: each.recalled.item.text for each in [*found, *further]}
    return [texts[entry.item] for entry in draft.plan.used], draft


# -- earlier askings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "question"),
    [
        ("What is the name of my cat?", "What is the name of my cat?"),
        ("what is the name of my cat", "What is the name of my cat"),
        ("WHAT is the name of my CAT?!?", "What is the name of my cat?"),
        ("What's my cat's name?", "What is the name of my cat?"),
        ("The name of my cat?", "What is the name of my cat, please?"),
        ("Tell me the name of my cat!", "Tell me the name of my cat."),
        ("Wie heißt meine Katze?", "wie heißt meine katze ?"),
        ("我的猫叫什么名字\uff1f", "我的猫叫什么名字\uff1f"),
        ("ما اسم قطتي؟", "ما اسم قطتي؟"),
    ],
)
def test_an_earlier_asking_gives_its_place_to_the_next_best(earlier, question):
    answer = result("He is called Miso, the grey one.", 0.1)
    used, _ = chosen([result(earlier)], [answer], question)
    assert used == [answer.recalled.item.text]


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("My cat is called Miso.", "Is my cat called Miso?"),
        ("My cat is called Miso", "is my cat called miso?"),
        ("Is it true that my cat Miso needs insulin?", "What is the name of my cat?"),
        ("My cat Miso is ill. What should I do?", "What should I do?"),
        ("Ist Miso der Name meiner Katze?", "Wie heißt meine Katze?"),
        ("Where does Maria live?", "Where does Martin live?"),
        ("Ja.", "?"),
    ],
)
def test_what_says_more_than_the_question_keeps_its_place(said, question):
    used, _ = chosen([result(said)], [], question)
    assert used == [said]


def test_replies_to_all_askings_take_one_place():
    question = "What is the name of my cat?"
    found = [result(question, source=f"r{n}:user") for n in range(4)]
    found += [result(f"Answer {n}.", 0.9, "assistant", source=f"r{n}:reply") for n in range(4)]
    further = [result("My cat is called Miso.", 0.2), result("Other.", 0.1, "assistant")]
    used, _ = chosen(found, further, question, most_replies=5)
    assert sorted(used) == ["Answer 0.", "My cat is called Miso.", "Other."]


# -- replies and sessions ------------------------------------------------------------------------------


def test_replies_take_at_most_their_places_and_come_behind_the_persons_words():
    replies = [result(f"Reply {n} of a boat.", 1.0, "assistant") for n in range(6)]
    own = [result(f"My boat {n} is fast.", 0.5) for n in range(3)]
    used, draft = chosen([*replies, *own], most_replies=2)
    assert sorted(used) == [f"My boat {n} is fast." for n in range(3)] + [
        "Reply 0 of a boat.",
        "Reply 1 of a boat.",
    ]
    draft.give_way(1, "no room")
    assert sum("Reply" in text for text in draft._texts("retrieved")) == 1
    tight, _ = chosen([*replies, *own], limit=framing() + 3 * 7, most_replies=2)
    assert sorted(tight) == [f"My boat {n} is fast." for n in range(3)]


def framing():
    return WORDS.count(layout.block([]))


def test_a_person_who_is_called_assistant_is_a_person():
    own = [result(f"My boat {n}.", speaker="assistant", person="assistant") for n in range(4)]
    used, _ = chosen(own, most_replies=1)
    assert len(used) == 4


def test_one_session_leaves_places_to_others_and_takes_those_that_are_left():
    loud = [result(f"Boat {n}.", 1.0, session="loud") for n in range(8)]
    quiet = [result(f"Ship {n}.", 0.1, session=f"quiet {n}") for n in range(3)]
    used, _ = chosen(loud, quiet, most_of_session=3)
    assert len(used) == 8
    assert {f"Ship {n}." for n in range(3)} <= set(used)
    assert {f"Boat {n}." for n in range(3)} <= set(used)
    alone, _ = chosen(loud, most_of_session=3)
    assert len(alone) == 8, "a person with one session loses nothing"


def test_items_without_a_session_are_not_counted():
    passages = [result(f"Boat {n}.") for n in range(8)]
    used, _ = chosen(passages, [result("Other.", 0.1)], most_of_session=1)
    assert len(used) == 8


@given(
    st.lists(st.tuples(st.sampled_from(["alice", "assistant"]), st.integers(1, 40)), max_size=14),
    st.integers(0, 200),
    st.integers(1, 8),
)
def test_the_places_and_the_budget_hold_whatever_is_found(items, limit, places):
    results = [
        result(" ".join([f"w{n}"] * size), 1 - n / 100, speaker, session=f"s{n % 3}")
        for n, (speaker, size) in enumerate(items)
    ]
    _, draft = chosen(results[:places], results[places:], limit=limit, most_replies=2)
    used = draft.plan.used
    assert len(used) <= places
    assert not used or sum(entry.tokens for entry in used) + framing() <= limit
    assert len(draft.plan.entries) == len(results)
    assert all(entry.reason for entry in draft.plan.entries)


# -- excerpts ------------------------------------------------------------------------------------------


def spaced(text):
    return len(text.split())


FILLER = [f"Sentence {n} talks of nothing in particular today." for n in range(30)]


@pytest.mark.parametrize("place", [0, 13, 29])
def test_an_excerpt_holds_the_sentence_that_matches(place):
    text = " ".join([*FILLER[:place], "The Lisbon restaurant serves sardines.", *FILLER[place:]])
    found = excerpt(text, "Which restaurant in Lisbon did you name?", 30, spaced)
    assert "The Lisbon restaurant serves sardines." in found
    assert spaced(found) <= 30 + 2
    assert found.startswith("\u2026") == (place > 0)


def test_a_word_of_every_sentence_decides_nothing():
    text = " ".join(f"Your boat number {n} is fine." for n in range(30)) + " The hull is oak, boat."
    assert "hull is oak" in excerpt(text, "What is the hull of my boat made of?", 20, spaced)


def test_an_excerpt_keeps_the_lines_of_a_list():
    lines = [f"{n}. Item number {n}" for n in range(40)] + ["40. Sardines in Lisbon", "41. Cod"]
    found = excerpt("\n".join(lines), "sardines", 12, spaced)
    assert "40. Sardines in Lisbon\n41. Cod" in found


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("里斯本的餐厅供应沙丁鱼。", "哪家餐厅供应沙丁鱼\uff1f"),
        ("リスボンのレストランはイワシを出します。", "イワシを出すレストランはどこですか\uff1f"),
        ("लिस्बन का रेस्तराँ सार्डिन परोसता है।", "कौन सा रेस्तराँ सार्डिन परोसता है?"),
        ("Das Lokal in Lissabon serviert Sardinen.", "Welches Lokal serviert Sardinen?"),
    ],
)
def test_an_excerpt_is_found_in_any_script(sentence, question):
    filler = {
        "。": "今天天气很好我们去公园散步。",
        "।": "आज मौसम बहुत अच्छा है।",
        ".": "Heute ist nichts los. ",
    }
    others = filler[sentence[-1]] * 20
    text = f"{others}{sentence} {others}"

    def count(text):
        return len(text) // 3 + 1

    assert sentence in excerpt(text, question, 30, count)


@given(st.text(max_size=400), st.text(max_size=60), st.integers(1, 40))
def test_an_excerpt_is_a_part_of_its_text_and_short(text, question, most):
    found = excerpt(text, question, most, spaced)
    bare = found.removeprefix("\u2026 ").removesuffix(" \u2026")
    assert bare in text or found == text
    assert spaced(bare) <= max(most, 1) or found == text
