"""Search in what others share: their other cubes are neither counted, nor ranked, nor in the way."""

from __future__ import annotations

import pytest

from memos_vllm.cube.model import Access, CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.governance.permit import Effect, Permission, SubjectKind
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault.grants import Subject
from tests.conftest import make_config, principal

ADMIN = principal("", role=Role.ADMIN)
BOB, CAROL = principal("bob"), principal("carol")
QUESTION = "When does the boat leave the harbour?"
TEXT = "We meet where the boat leaves, at seven."
BETTER = "The boat does leave the harbour, the boat at the harbour: leave number {}."
CAROL_ALONE = Subject(SubjectKind.PERSON, "carol")
BOTH = (Permission.READ, Permission.USE)


def store(system, owner, *texts, **meta):
    items = [Item(text=text) for text in texts]
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=items))
    return system.create(owner, [new])[0]


def share(system, cube):
    system.grants.put(BOB, cube.meta.id, CAROL_ALONE, Effect.ALLOW, BOTH)


async def found(system, caller, top_k=1):
    vector = await system.embed_question(caller, QUESTION)
    result = system.operator.search(caller, QUESTION, vector, top_k, further=True)
    assert result.degraded is None
    return [
        (each.recalled.item.text, each.score, dict(each.signals))
        for each in (*result.found, *result.further)
    ]


@pytest.fixture(params=["matrices", "chroma"])
def system(request, tmp_path):
    size = {} if request.param == "matrices" else {"retrieval": {"vector_cache_bytes": 0}}
    opened = MemorySystem(make_config(tmp_path, **size)).open()
    yield opened
    opened.close()


async def test_the_owner_s_other_cubes_change_no_score_and_take_no_place(system):
    share(system, store(system, BOB, TEXT, "Bring bread.", "The weather was fine."))
    alone = await found(system, CAROL)
    assert alone[0][0] == TEXT
    store(system, BOB, *(BETTER.format(number) for number in range(80)), name="diary")
    assert await found(system, CAROL) == alone
    assert (await found(system, BOB))[0][0] != TEXT, "the diary matches better"


async def test_shared_memory_of_some_readers_changes_nothing_for_others(system):
    store(system, ADMIN, TEXT, "Bring bread.", shared=True)
    alone = await found(system, CAROL)
    better = [BETTER.format(number) for number in range(80)]
    store(system, ADMIN, *better, shared=True, access=Access(readers=["bob"]))
    assert await found(system, CAROL) == alone
    assert (await found(system, BOB))[0][0] != TEXT


async def test_a_private_change_of_the_owner_leaves_the_index_of_what_is_shared(system):
    cube = store(system, BOB, TEXT)
    share(system, cube)

    def index():
        (state,) = system.views.owners(CAROL)
        return system.operator.index_of(state)

    first = index()
    store(system, BOB, BETTER.format(0))
    assert index() is first, "not even the time of a search shows it"
    system.update(BOB, cube.meta.id, CubePatch(append=[Item(text="Or the boat leaves at eight.")]))
    assert [item.text for item in index().items] == [TEXT, "Or the boat leaves at eight."]
    assert any(
        text == "Or the boat leaves at eight." for text, _, _ in await found(system, CAROL, 5)
    )
