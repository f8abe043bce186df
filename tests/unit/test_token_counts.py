"""Token counts of texts, each counted once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from memos_vllm.engine.chat.token_counts import TokenCounts


def test_a_text_is_counted_once_and_only_the_newest_are_known():
    asked: list[str] = []

    def encode(text: str) -> list[str]:
        asked.append(text)
        return text.split()

    counts = TokenCounts(encode, entries=2)
    assert [counts("a b"), counts("a b"), counts("c"), counts("\ud800 d e")] == [2, 2, 1, 3]
    assert asked == ["a b", "c", "\ud800 d e"]
    assert counts("a b") == 2
    assert asked[-1] == "a b", "it had been dropped for newer ones"
    assert not any(isinstance(key, str) for key in counts._counts), "no text is kept"


def test_threads_get_the_same_counts():
    counts = TokenCounts(str.split, entries=8)
    texts = ["w " * number for number in range(40)] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(counts, texts)) == [len(text.split()) for text in texts]
