"""The engine's blocks of what the whole tenant may read are shared by its people, and no others are."""

from __future__ import annotations

from tests.engine.harness import cached_tokens, chat
from tests.engine.kv import BLOCK, QUESTION, RULES, ask, make, same

HITS, EXTERNAL = "vllm:prefix_cache_hits_total", "vllm:external_prefix_cache_hits_total"
TEXT = "Opening hours. " + " ".join(RULES[3:])
LONG = "My own list. " + " ".join(RULES[:12])


def counted(server, operator: str, name: str) -> float:
    with server.http(operator) as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_people_share_blocks_of_the_tenants_cube_and_nothing_behind_it(server, keys):
    cube = make(server, "hours", TEXT, keys.kv_admin)
    make(server, "hours", TEXT, keys.kv_other, as_person="sh-gus", person="sh-gus")
    first = ask(server, "sh-ann", cube, keys.kv)
    assert cached_tokens(first) <= BLOCK, "at most the text in front of every cube"
    found, loaded = (counted(server, keys.operator, name) for name in (HITS, EXTERNAL))
    second = ask(server, "sh-bea", cube, keys.kv)
    hits = counted(server, keys.operator, HITS) - found
    head = first.memory["cubes"][0]["tokens"]
    assert counted(server, keys.operator, EXTERNAL) == loaded, "nothing was loaded"
    assert head - 2 * BLOCK < hits == cached_tokens(second)
    assert second.memory["cached"] == [{"kind": "exact", "source": "engine", "tokens": hits}]
    assert same(second, first)
    long = [{"role": "user", "content": f"{' '.join(RULES[:3])} {QUESTION}"}]
    assert cached_tokens(ask(server, "sh-ann", cube, keys.kv, messages=long)) == hits
    own = cached_tokens(ask(server, "sh-ann", cube, keys.kv, messages=long))
    assert own > hits, "her own question is cached for herself alone"
    assert cached_tokens(ask(server, "sh-cid", cube, keys.kv, messages=long)) == hits
    stranger = ask(server, "sh-gus", "hours", keys.kv_other)
    assert cached_tokens(stranger) == 0, "another tenant with the same words"


def test_the_same_words_of_two_people_share_no_block(server, keys):
    """A private cube, a system message that no admin has declared, and a client's own salt."""
    cube = make(server, "hours-2", "Second. " + TEXT, keys.kv_admin)
    for person in ("sh-dora", "sh-emil"):
        make(server, "list", LONG, keys.kv, as_person=person, person=person)
        memory = {"cubes": ["list"], "retrieve": False, "write": False}
        assert cached_tokens(chat(server, keys.kv, person, QUESTION, memory=memory)) == 0
    system = {"role": "system", "content": "You know what Dora likes."}
    asked = [system, {"role": "user", "content": QUESTION}]
    for person in ("sh-dora", "sh-emil"):
        assert cached_tokens(ask(server, person, cube, keys.kv, messages=asked)) == 0
    ask(server, "sh-dora", cube, keys.kv)
    assert cached_tokens(ask(server, "sh-emil", cube, keys.kv, cache_salt="mine")) == 0, (
        "a narrower scope"
    )
    assert cached_tokens(ask(server, "sh-emil", cube, keys.kv)) > 300
