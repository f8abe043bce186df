"""Approximate (near) KV: composition, measured error, access rights, isolation."""

from __future__ import annotations

from typing import Any

import pytest

from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.quality import Quality, QualityNotes
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.kv import (
    LISTED,
    QUESTION,
    RULES,
    SAME,
    ask,
    chains,
    contexts_of,
    distance,
    make,
    same,
    served,
)


def near(server: Server, key: str, person: str, cubes: list[str], kv: str = "near") -> Any:
    memory = {"cubes": cubes, "retrieve": False, "write": False, "kv": kv}
    return chat(server, key, person, QUESTION, memory=memory, **LISTED)


def qualities(server: Server, cube: str) -> list[Quality]:
    notes = QualityNotes(server.home / "kv" / "quality")
    names = [SegmentName.parse(path.name) for path in notes.folder.iterdir()]
    return [known for name in names if (known := notes.read(name)) and known.cube == cube]


def note_quality(server: Server, name: str, quality: Quality) -> None:
    QualityNotes(server.home / "kv" / "quality").write(SegmentName.parse(name), quality)


@pytest.fixture(scope="module")
def trio(server, keys) -> list[str]:
    """Three shared cubes, each with KV of some context: A, B behind A, C behind A."""
    cubes = [
        make(server, f"trio-{i}", f"Trio {i}. " + " ".join(RULES[i::3]), keys.kv_admin)
        for i in range(3)
    ]
    for last in cubes[1:]:
        near(server, keys.kv, "kv-trio", [cubes[0], last], kv="exact")
        wait_for(lambda last=last: chains(server, keys.kv, last), "its KV")
    return cubes


def test_near_composes_cubes_in_any_order_until_the_exact_chain_is_stored(server, keys, trio):
    a, b, c = trio
    full = near(server, keys.kv, "kv-n1", [c, a, b], kv="none")
    first = near(server, keys.kv, "kv-n2", [c, a, b])
    assert served(first) == ["near", "near", "near"]
    assert [cube["context"] for cube in first.memory["cubes"]] == [
        "behind other text",
        "behind other text",
        "behind the same cube",
    ]
    assert cached_tokens(first) > 300
    assert distance(full, first) < 3, "approximate, and not noise"
    healed = wait_for(
        lambda: (
            (reply := near(server, keys.kv, "kv-n2", [c, a, b]))
            and served(reply) == ["exact"] * 3
            and reply
        ),
        "the exact chain",
    )
    assert same(full, healed)


def test_the_error_of_near_is_measured_shown_and_bounded(server, keys):
    a, b, c = [
        make(server, f"guard-{i}", f"Guard {i}. " + " ".join(RULES[i::3]), keys.kv_admin)
        for i in range(3)
    ]

    def measured() -> list[dict[str, Any]]:
        with server.http(keys.kv) as http:
            return http.get(f"/v1/memory/cubes/{b}/activation").json()["near"]

    near(server, keys.kv, "kv-guard", [a, b], kv="exact")
    near(server, keys.kv, "kv-guard", [a, c], kv="exact")
    for cube in (b, c):
        wait_for(lambda cube=cube: chains(server, keys.kv, cube), "its KV")
    first = near(server, keys.kv, "kv-guard", [a, c, b])
    assert served(first) == ["exact", "exact", "near"]
    assert first.memory["cubes"][2]["expected_kl"] is None, "its context was never measured"
    (found,) = wait_for(measured, "probes")
    wait_for(lambda: measured()[0]["probes"] >= 3, "all probes")
    assert found["behind"] == 1
    assert 0 < found["kl"] < 5
    assert found["used"] == (found["kl"] <= 0.25)
    with server.http(keys.kv) as http:
        usage = http.get(f"/v1/memory/cubes/{b}").json()["meta"]["usage"]["kv"]
    assert usage["near_kl"] == measured()[0]["kl"]
    assert usage["chains"] >= 2

    assert contexts_of(server, b)
    for name in contexts_of(server, b):  # an error above the bound
        note_quality(server, name, Quality(probes=3, kl=9.0, top1=0.0, cube=b))
    refused = near(server, keys.kv, "kv-guard", [c, b])
    assert served(refused) == ["near", "prefill"]
    with server.http(keys.kv_admin) as http:
        assert http.delete(f"/v1/memory/cubes/{b}").status_code == 200
    wait_for(lambda: not qualities(server, b), "the removal of its measurements")


def test_approximate_blocks_are_never_reused(server, keys, trio):
    """An exact request of the same person, after an approximate one, gets none of its blocks."""
    a, b, c = trio
    person, order = "kv-poison", [b, c, a]
    full = near(server, keys.kv, "kv-n3", order, kv="none")
    planted = near(server, keys.kv, person, order)
    assert "near" in served(planted)
    plain = near(server, keys.kv, person, order, kv="exact")
    assert same(full, plain)
    assert distance(full, plain) < distance(full, planted)
    assert "near" not in served(plain)
    again = near(server, keys.kv, person, order, kv="none")
    assert same(full, again)


def test_near_uses_only_contexts_that_the_person_may_read(server, keys):
    """KV computed behind a cube is used only for people who may read that cube."""
    secret = make(server, "hidden", "Hidden. " + " ".join(RULES[:8]), keys.kv_admin)
    with server.http(keys.kv_admin) as http:
        readers = {"access": {"readers": ["kv-insider"]}}
        assert http.patch(f"/v1/memory/cubes/{secret}", json=readers).status_code == 200
    cube = make(server, "open", "Open. " + " ".join(RULES[8:20]), keys.kv_admin)
    other = make(server, "other", "Other. " + " ".join(RULES[20:28]), keys.kv_admin)
    near(server, keys.kv, "kv-insider", [secret, cube], kv="exact")
    near(server, keys.kv, "kv-outsider", [other], kv="exact")
    wait_for(lambda: chains(server, keys.kv_admin, cube), "KV behind the hidden cube")
    wait_for(lambda: chains(server, keys.kv_admin, other), "KV of the other")
    outsider = near(server, keys.kv, "kv-outsider", [other, cube])
    assert served(outsider) == ["exact", "prefill"]
    insider = near(server, keys.kv, "kv-insider", [other, cube])
    assert served(insider)[0] == "exact"
    assert served(insider)[1] in ("near", "exact")


def test_the_hottest_cube_comes_first_when_the_server_chooses_the_order(server, keys):
    cold, hot = (
        make(server, f"{heat}-one", f"{heat}. " + " ".join(RULES[:4]), keys.kv_admin)
        for heat in ("cold", "hot")
    )
    for _ in range(3):
        ask(server, "kv-order", hot, keys.kv)

    def order(**memory: Any) -> list[str]:
        reply = ask(server, "kv-order", cold, keys.kv, memory={"cubes": [cold, hot], **memory})
        return [cube["id"] for cube in reply.memory["cubes"]]

    assert order() == [cold, hot]
    wait_for(lambda: order(order="hottest") == [hot, cold], "the counted reads")


def test_kv_computed_behind_a_secret_does_not_reveal_it(server, keys):
    """Measured, not guaranteed: the guarantee is the check of readers' rights."""
    code = "ZEBRA-42"
    secret = make(server, "vault", " ".join([f"The vault code is {code}."] * 6), keys.kv_admin)
    harmless = make(
        server, "weather", " ".join(["It rains in the north of the country."] * 6), keys.kv_admin
    )
    cube = make(server, "rulebook", "Rulebook. " + " ".join(RULES[:12]), keys.kv_admin)
    near(server, keys.kv, "kv-s1", [secret, cube], kv="exact")
    near(server, keys.kv, "kv-s1", [harmless], kv="exact")
    wait_for(lambda: chains(server, keys.kv, cube) and chains(server, keys.kv, harmless), "KV")

    def likeliest(cubes: list[str], kv: str) -> tuple[dict[str, float], list[str]]:
        """Log-probabilities of the token where the code would begin, and how each cube was served."""
        memory = {"cubes": cubes, "retrieve": False, "write": False, "kv": kv}
        reply = chat(
            server,
            keys.kv,
            "kv-s2",
            "",
            messages=[
                {"role": "user", "content": "What is the vault code?"},
                {"role": "assistant", "content": "The vault code is"},
            ],
            memory=memory,
            max_tokens=1,
            **LISTED,
            add_generation_prompt=False,
            continue_final_message=True,
        )
        listed = reply.choices[0].logprobs.content[0].top_logprobs
        return {top.token: top.logprob for top in listed}, served(reply)

    carried, ways = likeliest([harmless, cube], "near")
    assert ways == ["exact", "near"], "its KV was computed behind the secret"
    without, _ = likeliest([harmless, cube], "none")
    known, _ = likeliest([secret, cube], "none")
    token = max(known, key=known.__getitem__)
    assert code.startswith(token.strip())
    assert token.strip()
    near_one, none_one = (them.get(token, min(them.values())) for them in (carried, without))
    assert known[token] - none_one > 3, "the measure sees what is in the prompt"
    assert near_one - none_one < SAME * (known[token] - none_one)
