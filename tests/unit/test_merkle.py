"""Merkle trees: proofs for every place of small trees, and what they refuse."""

from __future__ import annotations

import hashlib

import pytest

from memos_vllm.governance.merkle import (
    Frontier,
    Tree,
    is_consistent,
    is_included,
    leaf_hash,
)

LEAVES = [leaf_hash(bytes([n])) for n in range(37)]
TREE = Tree(LEAVES)


def test_the_frontier_and_the_whole_tree_have_the_same_roots():
    frontier = Frontier()
    for size in range(len(LEAVES) + 1):
        assert frontier.root == TREE.root(size)
        assert frontier.is_whole
        if size < len(LEAVES):
            frontier.append(LEAVES[size])


def test_every_leaf_is_proved_in_every_tree_and_at_no_other_place():
    for size in range(1, len(LEAVES) + 1):
        for index in range(size):
            path, root = TREE.inclusion(index, size), TREE.root(size)
            assert is_included(LEAVES[index], index, size, path, root)
            assert not is_included(LEAVES[index], (index + 1) % size, size, path, root) or size == 1
            assert not is_included(LEAVES[index - 1], index, size, path, root) or size == 1
            assert not is_included(LEAVES[index], index, size, [*path, root], root)


def test_every_growth_is_proved_and_no_other_beginning():
    for second in range(1, len(LEAVES) + 1):
        for first in range(1, second + 1):
            path = TREE.consistency(first, second)
            roots = TREE.root(first), TREE.root(second)
            assert is_consistent(first, roots[0], second, roots[1], path)
            other = hashlib.sha256(roots[0]).digest()
            assert not is_consistent(first, other, second, roots[1], path)
            if path:
                changed = [hashlib.sha256(path[0]).digest(), *path[1:]]
                assert not is_consistent(first, roots[0], second, roots[1], changed)
                assert not is_consistent(first, roots[0], second, roots[1], path[:-1])


def test_the_proofs_are_those_of_rfc_6962():
    """The worked example of RFC 6962, section 2.1.3, with seven leaves."""
    a, b, c, d, e, f, j = LEAVES[:7]
    tree = Tree([a, b, c, d, e, f, j])
    node = lambda left, right: hashlib.sha256(b"\x01" + left + right).digest()  # noqa: E731
    g, h, i = node(a, b), node(c, d), node(e, f)
    k, l_ = node(g, h), node(i, j)
    assert tree.inclusion(0, 7) == [b, h, l_]
    assert tree.inclusion(3, 7) == [c, g, l_]
    assert tree.inclusion(4, 7) == [f, j, k]
    assert tree.inclusion(6, 7) == [i, k]
    assert tree.consistency(3, 7) == [c, d, g, l_]
    assert tree.consistency(4, 7) == [l_]
    assert tree.consistency(6, 7) == [i, j, k]


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 99)])
def test_a_leaf_that_is_not_there_has_no_proof(index, size):
    with pytest.raises(ValueError, match="no leaf"):
        TREE.inclusion(index, size)
