"""Chains: inputs of a key, and exact cuts of a prompt."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memos_vllm.activation.chain import (
    Located,
    Part,
    Segment,
    chain_keys,
    history_cuts,
    locate,
    own_digest,
    special_position,
)
from memos_vllm.activation.orders import Conversation, Orders, Source, read_orders
from memos_vllm.prompt.layout import CLOSING, OPENING

MODEL = bytes(range(32))
TOKENS = list(range(100, 148))
CHAIN = (Segment(16, "tenant"), Segment(32, "tenant", ("a@1",)), Segment(48, "alice", ("b@1",)))
PARTS = (Part("x", "> one\n"), Part("a", "> two\n"), Part("b", "> three\n"))


def encoder(*merges: str):
    """Characters as tokens, but for strings that merge into one token, as in BPE."""
    pieces = re.compile("|".join([*map(re.escape, merges), "."]), re.DOTALL)

    def encode(text: str) -> list[int]:
        found = pieces.findall(text)
        return [ord(p) if len(p) == 1 else 1_000_000 + merges.index(p) for p in found]

    return encode


def prompt_with(parts: tuple[Part, ...] = PARTS) -> str:
    return f"<s>system\n{OPENING}{''.join(part.text for part in parts)}{CLOSING}\nHello."


def found_in(prompt: str, encode, parts: tuple[Part, ...] = PARTS) -> Located:
    return locate(prompt, encode(prompt), OPENING, parts, encode)


# -- keys -----------------------------------------------------------------------------------------


def test_a_key_depends_on_the_model():
    assert not set(chain_keys(MODEL, TOKENS, CHAIN)) & set(chain_keys(b"x" * 32, TOKENS, CHAIN))


def test_a_key_depends_on_the_scope():
    others = [dataclasses.replace(segment, scope="bob") for segment in CHAIN]
    assert not set(chain_keys(MODEL, TOKENS, CHAIN)) & set(chain_keys(MODEL, TOKENS, others))


@given(st.integers(0, len(TOKENS) - 1), st.integers(0, 2**32 - 1))
@example(20, TOKENS[20] + 2**16)
def test_a_key_depends_on_every_token_up_to_its_end_and_on_none_behind(place, token):
    changed = [*TOKENS[:place], token, *TOKENS[place + 1 :]]
    before, after = chain_keys(MODEL, TOKENS, CHAIN), chain_keys(MODEL, changed, CHAIN)
    for segment, old, new in zip(CHAIN, before, after, strict=True):
        assert (old == new) == (changed[: segment.end] == TOKENS[: segment.end])


def test_a_key_depends_on_where_its_segment_starts():
    whole, cut = ([Segment(48, "s")], [Segment(16, "s"), Segment(48, "s")])
    assert chain_keys(MODEL, TOKENS, whole)[-1] != chain_keys(MODEL, TOKENS, cut)[-1]


def test_the_same_text_has_another_key_in_another_place():
    text = TOKENS[:16]
    first, second, third = chain_keys(MODEL, text * 3, [Segment(n, "s") for n in (16, 32, 48)])
    assert len({first, second, third}) == 3
    assert own_digest(text) == own_digest((text * 3)[16:32]) != own_digest(TOKENS[16:32])


@given(st.lists(st.integers(0, 70_000), min_size=48, max_size=64), st.integers(1, 3))
def test_a_key_does_not_depend_on_later_segments(tokens, count):
    part = chain_keys(MODEL, tokens[: CHAIN[count - 1].end], CHAIN[:count])
    assert part == chain_keys(MODEL, tokens, CHAIN)[:count]


def test_keys_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from tests.unit.test_kv_chain import *\n"
        "print(json.dumps([chain_keys(MODEL, TOKENS, CHAIN), own_digest(TOKENS), hash('x')]))"
    )
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                check=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert found[0][:2] == found[1][:2] == [chain_keys(MODEL, TOKENS, CHAIN), own_digest(TOKENS)]
    assert found[0][2] != found[1][2]


# -- cuts -----------------------------------------------------------------------------------------


def test_parts_are_found_where_their_text_stands():
    prompt = prompt_with()
    found = found_in(prompt, encoder())
    assert found.problem is None
    assert prompt[: found.head].endswith(OPENING)
    assert found.text_start == prompt.index(OPENING)
    borders = [found.head, *found.ends]
    texts = [prompt[a:b] for a, b in itertools.pairwise(borders)]
    assert texts == [part.text for part in PARTS]


def test_merges_inside_a_part_are_no_border():
    found = found_in(prompt_with(), encoder("wo", "> ", "<s>"))
    assert (len(found.ends), found.problem) == (3, None)


@pytest.mark.parametrize(
    ("merge", "ends", "border"),
    [
        (f"{OPENING[-1]}> one", 0, "of memory"),
        ("\n> two", 0, "of x"),
        ("o\n> three", 1, "of a"),
        (f"\n{CLOSING}", 2, "of b"),
    ],
)
def test_a_merge_across_a_border_ends_the_chain_there_and_says_so(merge, ends, border):
    found = found_in(prompt_with(), encoder(merge))
    assert len(found.ends) == ends
    assert found.problem is not None
    assert found.problem.endswith(f"merge across the border {border}")
    assert found.ends == found_in(prompt_with(), encoder()).ends[:ends]


def test_the_same_memory_twice_is_a_problem():
    found = found_in(prompt_with() + prompt_with(), encoder())
    assert (found.head, found.ends) == (0, ())
    assert "twice" in str(found.problem)


@pytest.mark.parametrize("change", [("> two", "&gt; two"), ("\n", " "), ("> one\n", "> one\r\n")])
def test_a_template_that_changes_the_text_is_a_problem(change):
    found = found_in(prompt_with().replace(*change), encoder())
    assert (found.head, found.ends) == (0, ())
    assert "template" in str(found.problem)


def test_a_token_in_front_that_the_text_does_not_show_is_a_problem():
    prompt, encode = prompt_with(), encoder()
    assert locate(prompt, [1, *encode(prompt)], OPENING, PARTS, encode).problem is not None


@pytest.mark.slow
def test_parts_are_found_with_a_real_tokenizer():
    from tokenizers import Tokenizer

    from memos_vllm.demo.model import prepare_chat_model
    from tests.engine.harness import MODEL_CACHE

    tokenizer = Tokenizer.from_file(str(prepare_chat_model(MODEL_CACHE) / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    parts = (
        Part("a", "> [rules] Straße 7 öffnet um 8 o'clock.\n> And closes at 12.\n"),
        Part("b", "> \u65e5\u672c\u8a9e, \U0001f600 and   spaces   \n"),
        Part("c", ">\n"),
    )
    text = OPENING + "".join(part.text for part in parts) + CLOSING
    prompt = (
        f"<|im_start|>system\nBe brief.\n\n{text}<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    )
    tokens = encode(prompt)
    found = locate(prompt, tokens, OPENING, parts, encode)
    assert found.problem is None
    borders = [found.head, *found.ends]
    for part, start, end in zip(parts, borders, found.ends, strict=False):
        assert tokenizer.decode(tokens[start:end], skip_special_tokens=False) == part.text
    special = frozenset(encode("<|im_start|><|im_end|>"))
    cuts = history_cuts(tokens, special, found.ends[-1], len(tokens), 4)
    assert cuts, "a conversation is cut at the template's own tokens"
    for cut in cuts:
        assert tokenizer.decode(tokens[cut:], skip_special_tokens=False).startswith("<|im_")


CONVERSATION = st.lists(st.integers(0, 3), max_size=60)  # 0 and 1 are special
STARTS, LEASTS = st.integers(0, 20), st.integers(1, 12)
SPECIAL = frozenset({0, 1})


@given(CONVERSATION, STARTS, LEASTS, st.integers(0, 60), st.integers(0, 60))
def test_cuts_of_a_growing_conversation_stay_where_they_are(tokens, start, least, length, limit):
    """Neither later tokens nor a later limit move a cut: the next turn finds the same."""
    cuts = history_cuts(tokens, SPECIAL, start, len(tokens), least)
    earlier = history_cuts(tokens[:length], SPECIAL, start, len(tokens), least)
    assert earlier == [cut for cut in cuts if cut < length]
    assert history_cuts(tokens, SPECIAL, start, limit, least) == [c for c in cuts if c < limit]


@given(CONVERSATION, STARTS, LEASTS)
@example([0] * 12, 2, 3)
def test_cuts_stand_before_special_tokens_and_far_enough_apart(tokens, start, least):
    cuts = history_cuts(tokens, SPECIAL, start, len(tokens), least)
    assert all(tokens[cut] in SPECIAL for cut in cuts)
    borders = [start, *cuts]
    assert all(b - a >= least for a, b in zip(borders, cuts, strict=False))
    between = [t for t in range(borders[-1] + least, len(tokens)) if tokens[t] in SPECIAL]
    assert not between, "where a cut may be, one is"


def test_special_tokens_are_counted_from_one():
    tokens = [7, 0, 7, 1, 7, 0]
    assert [special_position(tokens, SPECIAL, n) for n in (1, 2, 3, 4)] == [1, 3, 5, 0]


# -- orders ---------------------------------------------------------------------------------------


def test_orders_come_through_the_engines_serializers_as_they_were():
    near = (Source(1, "folder", "key", 7, 2),)
    talk = Conversation(90, "alice", ("a@1",))
    for orders in (
        Orders(CHAIN),
        Orders(CHAIN, save=False),
        Orders(CHAIN, save=False, near=near),
        Orders(CHAIN, conversation=talk),
        Orders((), conversation=talk),
    ):
        params = {"another connector's": 1, **json.loads(json.dumps(orders.to_params()))}
        assert read_orders(params) == orders


def test_kv_behind_approximate_kv_is_never_saved():
    near = (Source(1, "f", "k", 7),)
    orders = read_orders(Orders(CHAIN, save=True, near=near).to_params())
    assert orders is not None
    assert not orders.save
    talk = Conversation(90, "alice")
    for kept in (Orders(CHAIN, save=False, conversation=talk), Orders(CHAIN, True, near, talk)):
        read = read_orders(kept.to_params())
        assert read is not None
        assert read.conversation is None


def test_orders_that_are_not_ours_or_make_no_chain_are_none():
    backwards = (Segment(32, "s"), Segment(16, "s"))
    nothing = Orders((Segment(0, "s"),)).to_params()
    for params in (None, {}, {"memos": 7}, Orders(()).to_params(), nothing):
        assert read_orders(params) is None
    assert read_orders(Orders(backwards).to_params()) is None
    assert read_orders(Orders((CHAIN[0], CHAIN[0])).to_params()) is None
