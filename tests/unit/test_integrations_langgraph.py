"""LangGraph's store over a real socket: as its own in-memory store, with a search of ours."""

from __future__ import annotations

import contextlib
import random

import pytest

from memos_vllm.api.app import create_app
from memos_vllm.errors import BadRequest, Forbidden
from memos_vllm.governance.principal import Role
from memos_vllm.integrations.client import MemoryClient
from memos_vllm.learning.feedback import Feedback
from memos_vllm.vault.views import CubeFilter
from tests.conftest import principal
from tests.http_server import served

pytest.importorskip("langgraph.store.base", reason="the extra `langgraph` is not installed")
from langgraph.store.base import InvalidNamespaceError, PutOp
from langgraph.store.memory import InMemoryStore

from memos_vllm.integrations.langgraph import ORIGIN, MemosStore


@pytest.fixture
def store_of(system):
    keys = {}
    with served(create_app(system)) as url, contextlib.ExitStack() as stack:

        def make(person="alice", tenant="acme", role=Role.WRITER):
            kept = (tenant, role)
            if kept not in keys:
                keys[kept] = system.keys.create(tenant, role)[1]
            return MemosStore(stack.enter_context(MemoryClient(url, keys[kept], person)))

        yield make


@pytest.fixture
def store(store_of):
    return store_of()


def plain(items):
    return sorted((item.namespace, item.key, repr(item.value)) for item in items)


def test_values_come_back_as_they_were(store):
    values = [
        {},
        {"text": "x"},
        {"text": "", "empty": [], "nothing": None, "nested": {"a": [1, 2.5, True, {"b": "c"}]}},
        {"long": "word " * 900, "other": "\n\n \t\u00e9\U0001f600 x\n"},
        {"list": [f"entry {number}" for number in range(60)]},
        {"$0": "dollar", "$shape": "key", "a#b": "hash"},
        {"number": 2**60, "negative": -1e-9},
    ]
    for number, value in enumerate(values):
        store.put(("values",), str(number), value)
        item = store.get(("values",), str(number))
        assert item.value == value, number
        assert (item.namespace, item.key) == (("values",), str(number))
        assert item.created_at <= item.updated_at


def test_it_behaves_like_the_librarys_own_store(store):
    oracle, choose = InMemoryStore(), random.Random(5)
    namespaces = [("a",), ("a", "b"), ("a", "b", "c"), ("x", "b"), ("\u00fc", "b")]
    for _ in range(40):
        namespace, key = choose.choice(namespaces), choose.choice("kl")
        value = {"n": choose.randrange(9), "tag": choose.choice(["red", "blue"])}
        for each in (store, oracle):
            if value["n"] == 8:
                each.delete(namespace, key)
            else:
                each.put(namespace, key, value)
    for namespace in namespaces:
        for key in "kl":
            ours, theirs = store.get(namespace, key), oracle.get(namespace, key)
            assert (ours and ours.value) == (theirs and theirs.value)
    for prefix in [(), ("a",), ("a", "b"), ("b",), ("x",)]:
        for where in (None, {"tag": "red"}, {"n": {"$gte": 3, "$lt": 7}}, {"n": {"$ne": 2}}):
            ours = store.search(prefix, filter=where, limit=100)
            assert plain(ours) == plain(oracle.search(prefix, filter=where, limit=100)), prefix
    for arguments in (
        {},
        {"prefix": ("a",)},
        {"suffix": ("b",)},
        {"prefix": ("*", "b")},
        {"prefix": ("a",), "max_depth": 2},
        {"limit": 2, "offset": 1},
    ):
        assert store.list_namespaces(**arguments) == oracle.list_namespaces(**arguments), arguments
    assert len(store.search((), limit=2, offset=1)) == 2


def test_a_query_finds_by_meaning_inside_of_a_namespace(store):
    store.put(("alice", "facts"), "1", {"text": "Alice has a cat called Miso.", "kind": "pet"})
    store.put(("alice", "facts"), "2", {"text": "Alice works in Graz.", "kind": "job"})
    store.put(("alice", "drafts"), "1", {"text": "A poem about a cat called Miso."})
    store.put(("alice", "facts"), "3", {"text": "A cat called Tofu."}, index=False)
    found = store.search(("alice", "facts"), query="What is the cat called?", limit=5)
    assert (found[0].key, found[0].value["kind"]) == ("1", "pet")
    assert found[0].score > 0
    assert {item.namespace for item in found} == {("alice", "facts")}
    assert "3" not in {item.key for item in found}
    assert store.get(("alice", "facts"), "3").value == {"text": "A cat called Tofu."}
    only = store.search(("alice",), query="cat", filter={"kind": "job"})
    assert {item.key for item in only} <= {"2"}


async def test_asynchronous_calls_and_batches(store):
    await store.aput(("a",), "k", {"v": 1})
    assert (await store.aget(("a",), "k")).value == {"v": 1}
    await store.adelete(("a",), "k")
    assert await store.aget(("a",), "k") is None
    assert [item.key for item in await store.asearch(("a",))] == []


def test_what_a_store_cannot_keep_is_refused(store):
    for namespace in ((), ("a.b",), ("",), ("langgraph",)):
        with pytest.raises(InvalidNamespaceError):
            store.put(namespace, "k", {"a": 1})
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(("a.b",), "k", {"a": 1})])
    with pytest.raises(NotImplementedError):
        store.put(("a",), "k", {"a": 1}, ttl=5)
    for value in ({"a": object()}, {"a": float("nan")}, {"a": "\x00"}, {"$string": 1}, {1: 2}):
        with pytest.raises(BadRequest):
            store.put(("a",), "k", value)
    store.put(("a",), "k", {"n": 1})
    with pytest.raises(BadRequest):
        store.search(("a",), filter={"n": {"$regex": "x"}})


def test_other_people_see_nothing_and_readers_write_nothing(store, store_of, system):
    store.put(("notes",), "k", {"text": "the code word is avocado"})
    for other in (store_of("bob"), store_of("alice", "globex"), store_of("bob", role=Role.ADMIN)):
        assert other.get(("notes",), "k") is None
        assert other.search(("notes",), query="avocado") == []
        assert other.list_namespaces() == []
        other.delete(("notes",), "k")
    reader = store_of(role=Role.READER)
    assert reader.get(("notes",), "k").value == {"text": "the code word is avocado"}
    with pytest.raises(Forbidden):
        reader.put(("notes",), "k", {"text": "mine"})
    (header,) = [
        h
        for h in system.views.page(principal("alice"), CubeFilter())[0]
        if h.name.startswith(ORIGIN)
    ]
    assert header.provenance.origin == ORIGIN
    assert system.knowledge.claims(principal("alice")) == []


def test_what_the_person_forgets_is_gone_from_the_value(store, system):
    store.put(("notes",), "k", {"text": "Alice lives in Paris.", "other": "Alice has a cat."})
    Feedback(system).forget(principal("alice"), "that I live in Paris")
    assert store.get(("notes",), "k").value == {"text": "", "other": "Alice has a cat."}
