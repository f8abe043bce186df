"""Sharing of KV: other contexts of a text, shared system messages, scopes."""

from __future__ import annotations

import os

import pytest
import torch

from memos_vllm.activation.backoff import ContextIndex
from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer
from memos_vllm.activation.orders import Source
from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.governance.scope import Scopes
from tests.conftest import principal
from tests.unit.test_kv_files import layers_of
from tests.unit.test_kv_store import MODEL, open_keeper, open_store

LENGTH = 16
"""Tokens of each text."""
SHAPE = Shape(layers=1, tokens=LENGTH, heads=1, head_dim=8, dtype=torch.float32)


def chain(texts: str, scope: str = "tenant") -> tuple[list[int], list[Segment]]:
    """A head and cubes behind it, one letter each: the same letter, the same tokens."""
    tokens = [ord(text) * 1000 + i for text in texts for i in range(LENGTH)]
    cubes = tuple(f"{text}@1" for text in texts[1:])
    ends = range(LENGTH, len(tokens) + 1, LENGTH)
    return tokens, [Segment(end, scope, cubes[:i]) for i, end in enumerate(ends)]


class Kept:
    """A store with chains in it, and an API process's view of it."""

    def __init__(self, keeper: TensorStore, namer: Namer, view: ContextIndex) -> None:
        self.keeper = keeper
        self.namer = namer
        self.view = view

    def keep(self, texts: str, scope: str = "tenant", ranks: int = 9) -> list[str]:
        """Returns the keys of its segments."""
        tokens, segments = chain(texts, scope)
        starts = [0, *(segment.end for segment in segments)]
        named = self.namer.names(tokens, segments)
        for names, start, segment in zip(named, starts, segments, strict=False):
            digest = own_digest(tokens[start : segment.end])
            about = {"digest": digest, "start": str(start), "scope": short(segment.scope)}
            for name in names[:ranks]:
                if self.keeper.segments.where(name) is None:
                    assert self.keeper.add(name, SHAPE, layers_of(SHAPE), segment.cubes, about)
        return [names[0].key for names in named]

    def reach(self, texts: str, scope: str = "tenant") -> int:
        return self.view.reach(*chain(texts, scope))

    def closest(
        self, texts: str, first: int = 1, scopes=("tenant",), may_read=lambda cubes: True
    ) -> list[Source]:
        return self.view.closest(*chain(texts), first, scopes, may_read)


def kept_with(folder, *ranks: str) -> Kept:
    namer = Namer(MODEL, ranks or ("",))
    return Kept(open_keeper(folder), namer, ContextIndex(open_store(folder), namer))


@pytest.fixture
def kept(tmp_path) -> Kept:
    return kept_with(tmp_path)


# -- contexts ---------------------------------------------------------------------------------------


def test_reach_counts_exact_segments_from_the_first_on(kept):
    assert kept.reach("HABC") == 0
    kept.keep("HAB")
    assert [kept.reach(texts) for texts in ("HABC", "HAB", "HA", "HBA", "GAB")] == [3, 3, 2, 1, 0]
    assert kept.reach("HAB", "another") == 0


def test_reach_ends_at_a_gap(kept):
    kept.keep("HABC")
    (name,) = kept.namer.names(*chain("HABC"))[1]
    kept.keeper.segments.wipe_segment(name)
    assert kept.reach("HABC") == 1


def test_a_text_is_found_where_it_was_computed(kept):
    keys = kept.keep("HAB")
    (source,) = kept.closest("HB")
    tokens, segments = chain("HAB")
    (name,) = kept.namer.names(tokens, segments)[2]
    assert source == Source(1, name.scope, keys[2], 2 * LENGTH, shared=0, behind=1)


def test_the_longest_run_of_the_same_cubes_before_wins(kept):
    long = kept.keep("HDCAB")
    middle = kept.keep("HXAB")
    kept.keep("HB")  # the latest, and nothing before it is the same
    found = kept.closest("HCAB")
    assert [source.segment for source in found] == [1, 2, 3]
    assert [source.key for source in found] == [long[2], long[3], long[4]]
    assert [source.start for source in found] == [2 * LENGTH, 3 * LENGTH, 4 * LENGTH]
    assert [source.shared for source in found] == [0, 1, 2]
    assert kept.closest("HYXAB", first=3)[1].key == middle[3]


def test_another_version_of_a_cube_before_is_another_cube(kept):
    tokens, segments = chain("HCAB")
    keys = kept.keep("HCAB")
    changed = [
        Segment(s.end, s.scope, tuple(c.replace("C@1", "C@2") for c in s.cubes)) for s in segments
    ]
    found = kept.view.closest(tokens, changed, 3, {"tenant"}, lambda cubes: True)
    assert [(source.key, source.shared) for source in found] == [(keys[3], 1)]


def test_the_same_text_of_another_cube_shares_nothing_before_it(kept):
    kept.keep("HAB")
    tokens, segments = chain("HCB")
    last = segments[-1]
    segments[-1] = Segment(last.end, last.scope, (*last.cubes[:-1], "twin@1"))
    (source,) = kept.view.closest(tokens, segments, 2, {"tenant"}, lambda cubes: True)
    assert source.shared == 0


def test_a_file_that_comes_back_is_a_context_again(kept):
    kept.keep("HAB")
    (name,) = kept.namer.names(*chain("HAB"))[2]
    path = kept.keeper.segments.disk.path(str(name))
    content = path.read_bytes()
    kept.keeper.segments.wipe_segment(name)
    assert kept.closest("HB") == []
    path.write_bytes(content)
    assert len(kept.closest("HB")) == 1


@pytest.mark.parametrize("late", ["X", "Y"])
def test_of_two_that_are_as_close_the_later_one_is_taken(kept, tmp_path, late):
    keys = {other: kept.keep(f"H{other}B")[2] for other in "XY"}
    for other, key in keys.items():
        (note,) = tmp_path.glob(f"kv/contexts/*/*/*{key}")
        os.utime(note, (5, 2000 if other == late else 1000))
    assert kept.closest("HB")[0].key == keys[late]


def test_closest_ends_at_a_segment_without_another_context(kept):
    kept.keep("HABC")
    assert [source.segment for source in kept.closest("HCNA")] == [1]
    assert kept.closest("HNCA") == []
    assert [source.segment for source in kept.closest("HNCA", first=2)] == [2, 3]


def test_a_scope_that_is_not_allowed_is_never_used(kept):
    kept.keep("HAB", "bob")
    assert kept.closest("HB", scopes=("tenant", "alice")) == []
    assert kept.closest("HB", scopes=()) == []
    assert kept.closest("HB", scopes=("tenant", "bob"))
    mine = kept.keep("HCB", "alice")
    assert kept.closest("HAB", first=2, scopes=("alice",))[0].key == mine[2]


def test_a_client_s_salt_is_part_of_the_scope_though_the_folder_is_the_same(kept):
    kept.keep("HAB", "tenant/salt")
    assert kept.closest("HB", scopes=("tenant", "tenant/other")) == []
    assert kept.closest("HB", scopes=("tenant/salt",))


def test_a_context_behind_an_unreadable_cube_is_never_used(kept):
    kept.keep("HCAB")
    open_to_all = kept.keep("HXB")
    asked: list[tuple[str, ...]] = []

    def may_read(cubes):
        asked.append(tuple(cubes))
        return "C@1" not in cubes

    (source,) = kept.closest("HAB", first=2, may_read=may_read)
    assert source.key == open_to_all[2]
    assert set(asked) == {("C@1", "A@1", "B@1"), ("X@1", "B@1")}, "all cubes before it count"
    assert kept.closest("HAB", first=2, may_read=lambda cubes: False) == []


def test_another_model_s_kv_is_never_used(kept, tmp_path):
    kept.keep("HAB")
    other = ContextIndex(open_store(tmp_path), Namer(b"x" * 32))
    assert other.closest(*chain("HB"), 1, {"tenant"}, lambda cubes: True) == []
    assert other.reach(*chain("HAB")) == 0


def test_a_wiped_context_is_not_found_though_its_header_is_cached(kept, tmp_path):
    kept.keep("HAB")
    kept.keep("HCB")
    assert len(kept.closest("HB")) == 1
    open_store(tmp_path).forget("A")
    assert kept.closest("HB")[0].start == 2 * LENGTH
    open_store(tmp_path).forget("C")
    assert kept.closest("HB") == []


def test_a_damaged_file_is_no_context(kept, tmp_path):
    kept.keep("HAB")
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:40])
    assert kept.closest("HB") == []


def test_a_context_serves_when_every_worker_has_its_share(tmp_path):
    kept = kept_with(tmp_path, "0of2", "1of2")
    kept.keep("HAB", ranks=1)
    assert (kept.reach("HAB"), kept.closest("HB")) == (0, [])
    keys = kept.keep("HAB")
    assert kept.reach("HAB") == 3
    assert [source.key for source in kept.closest("HB")] == [keys[2]]


# -- shared system messages -------------------------------------------------------------------------


def test_a_message_is_the_tenant_s_once_several_people_have_sent_it(tmp_path):
    prompts = SharedPrompts(tmp_path, 3)
    answers = [prompts.is_shared("acme", person, "Be brief.") for person in ("a", "b", "b", "a")]
    assert answers == [False] * 4
    assert prompts.is_shared("acme", "c", "Be brief.")
    assert prompts.is_shared("acme", "a", "Be brief.")


def test_messages_and_tenants_are_counted_apart(tmp_path):
    prompts = SharedPrompts(tmp_path, 2)
    prompts.is_shared("acme", "a", "Be brief.")
    assert not prompts.is_shared("acme", "b", "Be brief!")
    assert not prompts.is_shared("globex", "b", "Be brief.")
    assert prompts.is_shared("acme", "b", "Be brief.")
    assert not prompts.is_shared("globex", "b", "Be brief.")


def test_a_request_without_a_person_does_not_count(tmp_path):
    prompts = SharedPrompts(tmp_path, 2)
    assert not any(prompts.is_shared("acme", "", "Be brief.") for _ in range(3))
    assert not prompts.is_shared("acme", "a", "Be brief.")
    assert prompts.is_shared("acme", "b", "Be brief.")
    assert prompts.is_shared("acme", "", "Be brief.")


def test_senders_of_messages_outlive_the_process_as_digests(tmp_path):
    for person in ("alice", "bob"):
        assert not SharedPrompts(tmp_path, 3).is_shared("acme", person, "Help Alice.")
    assert SharedPrompts(tmp_path, 3).is_shared("acme", "carol", "Help Alice.")
    names = " ".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert not any(word in names.lower() for word in ("alice", "bob", "acme"))
    assert not any(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_zero_is_declared_alone_and_one_is_always(tmp_path):
    declared, always = SharedPrompts(tmp_path, 0), SharedPrompts(tmp_path, 1)
    assert not any(declared.is_shared("acme", person, "Be brief.") for person in "abc")
    assert always.is_shared("acme", "", "Be brief.")
    assert always.is_shared("acme", "a", "")


def test_a_declared_message_is_shared_at_once_and_for_its_tenant_only(tmp_path):
    SharedPrompts(tmp_path, 3).declare("acme", "Be brief.\ud800")
    prompts = SharedPrompts(tmp_path, 3)
    assert prompts.is_shared("acme", "", "Be brief.\ud800")
    assert not prompts.is_shared("globex", "a", "Be brief.\ud800")
    assert not prompts.is_shared("acme", "a", "Be brief.")


def test_a_declared_message_stays_declared_when_more_people_are_asked_for(tmp_path):
    SharedPrompts(tmp_path, 2).declare("acme", "Be brief.")
    assert SharedPrompts(tmp_path, 9).is_shared("acme", "", "Be brief.")


# -- scopes -----------------------------------------------------------------------------------------

SCOPES = Scopes(b"secret", "person")
ALICE, BOB = principal("alice"), principal("bob")


def test_people_tenants_and_servers_have_scopes_of_their_own():
    scopes = {
        SCOPES.person(ALICE),
        SCOPES.person(BOB),
        SCOPES.tenant(ALICE),
        SCOPES.person(principal("alice", "globex")),
        Scopes(b"another", "person").person(ALICE),
    }
    assert len(scopes) == 5
    assert SCOPES.tenant(ALICE) == SCOPES.tenant(BOB) == SCOPES.person(principal(""))
    assert not any("alice" in scope or "acme" in scope for scope in scopes)


def test_isolation_by_tenant_has_one_scope_for_all_its_people():
    scopes = Scopes(b"secret", "tenant")
    assert scopes.person(ALICE) == scopes.person(BOB) == scopes.tenant(ALICE)
    assert scopes.person(ALICE) != scopes.person(principal("alice", "globex"))


def test_a_client_s_salt_narrows_and_never_widens():
    plain = SCOPES.person(ALICE)
    salted = {salt: SCOPES.person(ALICE, salt) for salt in ("one", "two", SCOPES.person(BOB))}
    assert len({plain, SCOPES.person(BOB), *salted.values()}) == 5
    assert {scope.partition("/")[0] for scope in salted.values()} == {plain}
    assert "one" not in salted["one"], "it is a digest of the client's salt"
    assert SCOPES.person(ALICE, "") == SCOPES.person(ALICE, None) == plain
    assert SCOPES.person(BOB, "one") != salted["one"]
    assert SCOPES.tenant(ALICE, "one").partition("/")[0] == SCOPES.tenant(ALICE)
