"""What each sentence of a reply rests on: requests that leave one item out, and the numbers of the page."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import re

import pytest
from fastapi.responses import JSONResponse

from memos_vllm.console.attribution import MOST, THRESHOLD, Unmatched, attribute, ids_of
from memos_vllm.console.chat import Chats, Reply, Scores
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.console import Browser, FakeChat, console_app, key_of
from tests.unit.test_console_hostile import SCRIPT, check_inert

ALICE = principal("alice")
ASKED = {"message": "Which tea do I like?", "attribution": "true"}


@pytest.fixture
def app(system):
    return console_app(system)


@pytest.fixture
def cube(system):
    content = [Item(text="Alice likes oolong tea."), Item(text="Alice has a red pot.")]
    new = NewCube(meta=NewMeta(name="teas"), payload=ExplicitPayload(content=content))
    return system.create(ALICE, [new])[0]


@pytest.fixture
def chat(app, cube):
    """A chat that used two items, the second one with the better score, and a whole cube."""
    items = [{"id": item.id, "score": 0.5 + n / 10} for n, item in enumerate(cube.items)]
    used = {"id": cube.meta.id, "name": "teas", "tokens": 12, "items": items}
    whole = {"id": "cube_w", "name": "house rules", "tokens": 9, "items": []}
    adapter = {"id": "cube_a", "name": "style", "tokens": 0, "items": [], "form": "adapter"}
    made = FakeChat(app, {"cubes": [whole, adapter, used], "injected_tokens": 21})
    made.replies = ["You like oolong. Good day!", "I do not know."]
    return made


def rows(page):
    """(sentence, rests on, numbers) of the page's table."""
    found = []
    for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", page, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        told, rests, _, *drops = (html.unescape(re.sub("<[^>]+>", "", cell)) for cell in cells)
        found.append((told, rests, [float(drop) for drop in drops]))
    return found


def test_each_item_is_left_out_once_and_its_drop_is_shown_for_each_sentence(
    system, app, chat, cube
):
    tea, pot = (item.id for item in cube.items)
    chat.logprobs = {(tea, "oolong."): -4.0, ("cube_w", "Good"): -0.5, ("cube_w", "day!"): -1.3}
    page = Browser(app, key_of(system, Role.WRITER)).post("try", ASKED, person="alice")
    assert page.status_code == 200, page.text
    assert rows(page.text) == [
        ("You like oolong.", "item 2", [0.0, 1.0, 0.0]),
        ("Good day!", "no item", [0.0, 0.0, -0.1]),
    ]
    told = re.search(r"<ol aria-label=.*?</ol>", page.text, re.DOTALL)[0]
    assert re.findall(r"<bdi>(.*?)</bdi>", told) == [
        *("Alice has a red pot.", "Alice likes oolong tea.", "house rules")
    ]
    cost = "Cost: 4 requests, 400 tokens in their prompts, 0 of them from cache"
    assert cost in page.text
    first, *scored = (body for _, body in chat.asked)
    assert "prompt_logprobs" not in first
    fixed = {"write": False, "kv": "none"}
    assert [body["memory"] for body in scored] == [
        fixed,
        *(fixed | {"without": [left]} for left in (pot, tea, "cube_w")),
    ]
    for body in scored:
        assert (body["user"], body["max_tokens"], body["prompt_logprobs"]) == ("alice", 1, 0)
        assert body["messages"] == [
            *first["messages"],
            {"role": "assistant", "content": chat.replies[0]},
        ]
        assert (body["add_generation_prompt"], body["continue_final_message"]) == (False, True)
    assert {who.key_id for who, _ in chat.asked} == {chat.asked[0][0].key_id}


def test_a_page_without_the_box_scores_nothing(system, app, chat):
    page = Browser(app, key_of(system)).post("try", {"message": "Tea?"}, person="alice")
    assert 'name="attribution"' in page.text
    assert "Drop in nats" not in page.text
    assert len(chat.asked) == 1


def test_the_operator_can_switch_it_off(tmp_path):
    config = make_config(tmp_path / "home", console={"attribution": False})
    system = MemorySystem(config).open()
    try:
        app = console_app(system)
        chat = FakeChat(app)
        browser = Browser(app, key_of(system))
        assert 'name="attribution"' not in browser.get("try", person="alice").text
        assert browser.post("try", ASKED, person="alice").status_code == 404
        assert chat.asked == []
        assert browser.post("try", {"message": "Tea?"}, person="alice").status_code == 200
    finally:
        system.close()


def test_the_best_items_are_left_out_and_the_others_are_counted(system, app, chat, cube):
    many = [{"id": f"item_{n}", "score": n / 100} for n in range(MOST + 3)]
    chat.memory["cubes"] = [{"id": cube.meta.id, "name": "teas", "tokens": 9, "items": many}]
    page = Browser(app, key_of(system)).post("try", ASKED, person="alice").text
    left_out = [body["memory"]["without"] for _, body in chat.asked[2:]]
    assert left_out == [[f"item_{n}"] for n in range(MOST + 2, 2, -1)]
    assert "3 more items were not left out" in page


def test_a_remembered_turn_is_not_scored(system, app, chat):
    fields = {**ASKED, "remember": "true"}
    page = Browser(app, key_of(system)).post("try", fields, person="alice").text
    assert "You like oolong." in page
    assert "No sentence is attributed: the turn is remembered" in page
    assert len(chat.asked) == 1


def test_memory_that_has_changed_since_the_reply_is_attributed_to_no_sentence(
    system, app, chat, monkeypatch
):
    score = FakeChat.scored

    def changed(self, body):
        self.memory = self.memory | {"cubes": self.memory["cubes"][1:]}
        return score(self, body)

    monkeypatch.setattr(FakeChat, "scored", changed)
    page = Browser(app, key_of(system)).post("try", ASKED, person="alice").text
    assert "No sentence is attributed: memory has changed" in page
    assert "Drop in nats" not in page
    assert len(chat.asked) == 2


def test_a_refused_scoring_leaves_the_reply_on_the_page(system, app, chat, monkeypatch):
    envelope = {"error": {"message": "too many requests", "type": "x"}}
    refused = JSONResponse(envelope, 429, headers={"retry-after": "9"})
    monkeypatch.setattr(FakeChat, "scored", lambda self, body: refused)
    page = Browser(app, key_of(system)).post("try", ASKED, person="alice")
    assert (page.status_code, page.headers["retry-after"]) == (429, "9")
    assert "The scoring of the reply is refused (429): <bdi>too many requests" in page.text
    assert "You like oolong." in page.text


def test_a_past_day_is_scored_with_the_memory_of_then(system, app, chat):
    Browser(app, key_of(system)).post("try", ASKED, person="alice", day="2020-02-03")
    assert {body["memory"]["as_of"] for _, body in chat.asked} == {"2020-02-03T23:59:59+00:00"}


def test_a_reader_without_the_scope_of_chats_scores_nothing(system, app, chat):
    made = system.keys.create("acme", Role.READER, scopes=["memory.read"])[1]
    assert Browser(app, made).post("try", ASKED, person="alice").status_code == 403
    assert chat.asked == []


def test_a_hostile_reply_and_its_items_are_inert(system, app, chat):
    chat.replies = [f"{SCRIPT} Yes."]
    chat.memory["cubes"] = [{"id": SCRIPT, "name": SCRIPT, "tokens": 1, "items": []}]
    page = Browser(app, key_of(system)).post("try", ASKED, person="alice")
    assert "Drop in nats" in page.text
    check_inert(page.text)


# -- tokens and sentences ------------------------------------------------------------------------------

MEMORY = {"cubes": [{"id": "c", "name": None, "items": [{"id": "i", "score": 1.0}]}]}
REPLY = Reply("r", "", 1, 1, 1.0, False, MEMORY)


class FakeScores:
    """Scores each token with -1, and with -3 in the prompt without the item."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens

    async def score(self, message, reply, memory):
        value = -3.0 if "without" in memory else -1.0
        left = {"cubes": []} if "without" in memory else MEMORY
        return Scores(tuple((token, value) for token in self.tokens), 9, 0, 1.0, left)


def counted(text, *tokens):
    """Sentences of a reply with their numbers of tokens."""
    found = asyncio.run(
        attribute(FakeScores(*tokens), "", dataclasses.replace(REPLY, text=text), {})
    )
    assert {row.drops for row in found.sentences} == {(2.0,)}
    return [(row.text, row.tokens) for row in found.sentences]


def test_tokens_belong_to_the_sentence_of_their_first_visible_character():
    assert counted("It is. So", "user", "\n", "It", " is", ". S", "o") == [("It is.", 3), ("So", 1)]


def test_bullets_and_white_space_belong_to_no_sentence():
    text = "- Tea.\n\n- Milk.\n"
    tokens = ("-", " Te", "a.", "\n\n", "-", " Milk", ".", "\n")
    assert counted(text, "assistant", "\n", *tokens) == [("Tea.", 2), ("Milk.", 2)]


def test_a_character_of_several_tokens_counts_all_of_them():
    assert counted("Yes. 🦊!", "Yes", ".", " ", "", "", "🦊", "!") == [("Yes.", 2), ("🦊!", 4)]


@pytest.mark.parametrize("tokens", [("No", "."), ("x", "It", " is"), ("s.",), ("It is.",)])
def test_tokens_that_do_not_spell_the_reply_are_an_error(tokens):
    with pytest.raises(Unmatched):
        counted("t is.", *tokens)


@pytest.mark.parametrize("fields", [{"text": ""}, {"memory": {"cubes": []}}, {"memory": None}])
def test_a_reply_without_text_or_memory_is_not_scored(fields):
    reply = dataclasses.replace(REPLY, **{"text": "Yes.", **fields})
    chats = Chats(None, "authorization", "", "")  # type: ignore[arg-type]
    with pytest.raises(Unmatched):
        asyncio.run(attribute(chats, "", reply, {}))


def test_adapters_are_no_text_and_whole_cubes_come_behind_the_items():
    cubes = [
        {"id": "head", "items": []},
        {"id": "style", "items": [], "form": "adapter"},
        {"id": "c", "items": [{"id": "low", "score": 0.1}, {"id": "high", "score": 0.9}]},
    ]
    assert ids_of({"cubes": cubes}) == ["high", "low", "head"]


def test_a_sentence_rests_on_the_items_above_the_threshold_the_largest_drop_first():
    found = asyncio.run(
        attribute(FakeScores("Yes", "."), "", dataclasses.replace(REPLY, text="Yes."), {})
    )
    row = dataclasses.replace(
        found.sentences[0], drops=(THRESHOLD, 0.3, -2.0, 0.9, THRESHOLD + 0.01)
    )
    assert row.rests_on == [4, 2, 5]
