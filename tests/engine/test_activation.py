"""KV that outlives the engine: right, shared as far as it may be, and gone when it has to go."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.activation import files
from memos_vllm.activation.wiping import SUFFIX
from tests.engine.harness import MODEL, Server, cached_tokens, chat, wait_for

BLOCK = 32
RULES = [
    f"Rule {i}: the office in town {i * 7 % 97} opens at {i % 12} o'clock and closes at {i * 5 % 12}."
    for i in range(30)
]
QUESTION = "When does the office in town 21 open?"


@pytest.fixture(scope="module")
def kept(homes) -> Iterator[Server]:
    """A server of this module's own: it is killed, and its files are damaged."""
    folder = homes / "kept"
    folder.mkdir()
    with Server(folder, home=folder / "home").running() as running:
        yield running


def make(server: Server, name: str, text: str, key: str | None = None, **meta: Any) -> str:
    with server.http(key, meta.pop("as_person", None)) as http:
        reply = http.post(
            "/v1/memory/cubes",
            json={
                "meta": {"name": name, **meta},
                "payload": {"type": "explicit", "format": "text", "content": text},
            },
        )
    assert reply.status_code == 201, reply.text
    return reply.json()["meta"]["id"]


def ask(server: Server, person: str, cube: str, key: str = "none", **extra: Any) -> Any:
    memory = {"cubes": [cube], "retrieve": False, "write": False, **extra.pop("memory", {})}
    return chat(server, key, person, QUESTION, memory=memory, **extra)


def explain(server: Server, reply: Any, person: str, key: str | None = None) -> dict[str, Any]:
    def plan() -> Any:
        with server.http(key, person) as http:
            found = http.get(f"/v1/memory/explain/{reply.id}")
        return found.json() if found.status_code == 200 else None

    return wait_for(plan, "the plan")


def segments(server: Server) -> list[Path]:
    return sorted((server.home / "kv" / "segments").rglob(f"*{SUFFIX}"))


def in_ram(server: Server) -> list[Path]:
    return sorted(server.home.parent.glob(f"memos-kv-*/**/*{SUFFIX}"))


def settled(server: Server, count: int) -> list[Path]:
    """Segments on both tiers, once there are so many."""
    wait_for(lambda: len(segments(server)) >= count <= len(in_ram(server)), f"{count} segments")
    return segments(server)


def text_of(reply: Any) -> str:
    return reply.choices[0].message.content


def metric(server: Server, name: str) -> float:
    with server.http() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def from_disk(server: Server) -> None:
    """Leave nothing in shared memory: the next load comes from disk."""
    for path in in_ram(server):
        path.unlink()


# -- sharing, on the server that everything else runs on ---------------------------------------------


def test_a_shared_cube_is_computed_once_for_all_people_of_a_tenant(server, keys):
    text = " ".join(RULES)
    cube = make(server, "rules", text, keys.acme_admin)
    make(server, "rules", text, keys.globex, as_person="gus", person="gus")
    first = ask(server, "kv-ann", cube, keys.acme)
    assert cached_tokens(first) == 0
    tokens = first.usage.prompt_tokens
    wait_for(
        lambda: (
            explain(server, reply := ask(server, "kv-bea", cube, keys.acme), "kv-bea", keys.acme)
            and cached_tokens(reply)
        ),
        "KV of the cube",
    )
    second = ask(server, "kv-cid", cube, keys.acme)
    assert tokens - cached_tokens(second) < 40, "only the question is computed"
    assert text_of(second) == text_of(first)
    assert second.memory["cubes"][0]["form"] == "kv"
    assert first.memory["cubes"][0]["form"] == "text"
    stranger = ask(server, "gus", "rules", keys.globex)
    assert cached_tokens(stranger) == 0, "the same words in another tenant are computed there"
    assert text_of(stranger) == text_of(first)


def test_a_person_s_own_cube_serves_nobody_else(server, keys):
    text = "My diary. " + " ".join(RULES[:20])
    for person in ("kv-dora", "kv-emil"):
        make(server, "diary", text, keys.acme, as_person=person, person=person)
    first = ask(server, "kv-dora", "diary", keys.acme)
    plan = explain(server, first, "kv-dora", keys.acme)
    assert [segment["shared"] for segment in plan["kv"]["segments"]][-1] is False
    time.sleep(2)  # whatever was going to be kept is kept by now
    assert cached_tokens(ask(server, "kv-dora", "diary", keys.acme)) > 300
    other = ask(server, "kv-emil", "diary", keys.acme)
    assert cached_tokens(other) == 0
    assert text_of(other) == text_of(first)


def test_a_system_message_is_a_person_s_until_several_have_sent_it(server, keys):
    cube = make(server, "tone", " ".join(RULES[:20]), keys.acme_admin)
    system = {"role": "system", "content": "You answer in one short sentence."}
    messages = [system, {"role": "user", "content": QUESTION}]
    shared = []
    for person in ("kv-f1", "kv-f2", "kv-f3", "kv-f4"):
        reply = ask(server, person, cube, keys.acme, messages=messages)
        plan = explain(server, reply, person, keys.acme)
        shared.append(plan["kv"]["segments"][-1]["shared"])
        wait_for(lambda: True, "a moment")
        time.sleep(1)
        last = reply
    assert shared == [False, False, True, True]
    assert cached_tokens(last) > 300


def test_none_neither_loads_nor_keeps(server, keys):
    cube = make(server, "unkept", "Unkept. " + " ".join(RULES[:10]), keys.acme_admin)
    for person in ("kv-g1", "kv-g2"):
        reply = ask(server, person, cube, keys.acme, memory={"kv": "none"})
        assert cached_tokens(reply) == 0
        time.sleep(1)


def test_an_activated_cube_is_there_for_the_first_question(server, keys):
    cube = make(server, "ahead", "Ahead. " + " ".join(RULES[:20]), keys.acme_admin)
    system = "You answer politely."
    with server.http(keys.acme_admin) as http:
        url = f"/v1/memory/cubes/{cube}"
        made = http.post(f"{url}/activate", json={"system": system, "pinned": True})
        assert made.status_code == 200, made.text
        again = http.post(f"{url}/activate", json={"system": system, "pinned": True})
        shown = http.get(f"{url}/activation").json()
    assert (made.json()["built"], again.json()["built"]) == (True, False)
    assert made.json()["segments"][-1]["shared"] is True
    assert shown["chains"] >= 1
    assert shown["pinned"] is True
    messages = [{"role": "system", "content": system}, {"role": "user", "content": QUESTION}]
    reply = ask(server, "kv-jo", cube, keys.acme, messages=messages)
    assert cached_tokens(reply) == made.json()["segments"][-1]["end"]
    assert reply.memory["cubes"][0]["form"] == "kv"


def test_activating_is_guarded_and_says_what_does_not_work(server, keys):
    cube = make(server, "long", " ".join(RULES) * 2, keys.acme_admin)
    with server.http(keys.globex) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 404
    with server.http(keys.acme_reader) as http:
        assert http.post(f"/v1/memory/cubes/{cube}/activate").status_code == 403
    with server.http(keys.acme) as http:
        speaking_for_all = http.post(f"/v1/memory/cubes/{cube}/activate", json={"system": "Hi."})
        too_long = http.post(f"/v1/memory/cubes/{cube}/activate")
        assert http.get("/v1/memory/activation").status_code == 403
    assert speaking_for_all.status_code == 403
    assert too_long.status_code == 422
    assert "tokens" in too_long.json()["error"]["message"]
    with server.http(keys.acme_admin) as http:
        assert http.get("/v1/memory/activation").status_code == 403
    with server.http(keys.operator) as http:
        tiers = http.get("/v1/memory/activation").json()["tiers"]
    assert [tier["name"] for tier in tiers] == ["ram", "disk"]
    assert all(tier["bytes"] > 0 for tier in tiers)


def test_a_conversation_s_history_is_kept_for_its_person(server, keys):
    history = [
        {"role": "user", "content": "Remember these. " + " ".join(RULES[:15])},
        {"role": "assistant", "content": "I will."},
        {"role": "user", "content": "How many rules were there?"},
    ]
    reply = chat(server, keys.acme, "kv-hal", "", messages=history, memory={"write": False})
    plan = explain(server, reply, "kv-hal", keys.acme)
    assert [segment["shared"] for segment in plan["kv"]["segments"]] == [False]
    other = chat(server, keys.acme, "kv-ida", "", messages=history, memory={"write": False})
    assert cached_tokens(other) == 0


# -- exactness, restarts, faults: on a server of our own ---------------------------------------------


def test_loaded_kv_gives_the_very_numbers_of_the_prefix_cache(kept):
    """With the same split, log-probabilities are equal to the last bit."""
    text = " ".join(RULES[:20])
    cube = make(kept, "exact", text)
    end = explain(kept, ask(kept, "x0", cube), "x0")["kv"]["segments"][-1]["end"]
    text += " a" * (-end % BLOCK)
    with kept.http() as http:
        patch = {"payload": {"type": "explicit", "format": "text", "content": text}}
        assert http.patch(f"/v1/memory/cubes/{cube}", json=patch).status_code == 200
    options = {"logprobs": True, "top_logprobs": 5, "max_tokens": 16}
    first = ask(kept, "x1", cube, **options)
    assert explain(kept, first, "x1")["kv"]["segments"][-1]["end"] % BLOCK == 0
    warm = ask(kept, "x1", cube, **options)
    wait_for(lambda: in_ram(kept), "a segment")
    loaded = wait_for(
        lambda: (reply := ask(kept, "x2", cube, **options)) and cached_tokens(reply) and reply,
        "a load",
    )
    assert cached_tokens(loaded) == cached_tokens(warm) > 300
    assert loaded.choices[0].logprobs == warm.choices[0].logprobs


def test_kv_survives_kill_9_and_comes_back_exact(kept):
    cube = make(kept, "survivor", "Survivor. " + " ".join(RULES))
    before = len(segments(kept))
    cold = ask(kept, "y1", cube, max_tokens=16)
    settled(kept, before + 1)
    warm = ask(kept, "y1", cube, max_tokens=16)
    kept.kill(signal.SIGKILL)
    from_disk(kept)
    kept.start()
    again = ask(kept, "y1", cube, max_tokens=16)
    assert cached_tokens(again) >= cached_tokens(warm) - BLOCK > 500
    assert text_of(again) == text_of(warm)
    assert again.usage.prompt_tokens == cold.usage.prompt_tokens
    assert metric(kept, "memos_kv_loaded_tokens_disk_total") > 500


def test_killed_in_the_middle_of_a_save(kept):
    """What was half written is never served, and does not stay."""
    kept_before = {path.name for path in segments(kept)}
    caught: list[Path] = []
    for attempt in range(5):
        cube = make(kept, f"half-{attempt}", f"Half {attempt}. " + " ".join(RULES))
        stop = threading.Event()
        watcher = threading.Thread(target=_kill_when_writing, args=(kept, stop, caught))
        watcher.start()
        with contextlib.suppress(Exception):  # the connection breaks with the server
            ask(kept, "z1", cube)
        stop.wait(5)
        watcher.join()
        if caught:
            break
    assert caught, "no save was seen while it was written"
    kept.kill(signal.SIGKILL)
    kept.start()
    names = {path.name for path in segments(kept)}
    assert not any(not name.endswith(SUFFIX) for name in names)
    for path in segments(kept):
        if path.name not in kept_before:
            files.check(path)  # whole, with its checksum, or not there
    reply = ask(kept, "z1", cube)
    again = ask(kept, "z2", cube)
    assert text_of(reply) == text_of(again)


def _kill_when_writing(server: Server, stop: threading.Event, caught: list[Path]) -> None:
    folder = server.home / "kv" / "segments"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [
            Path(entry.path)
            for parent, _, _ in os.walk(folder)
            for entry in os.scandir(parent)
            if entry.name.endswith(".tmp")
        ]
        if found:
            os.killpg(server._process.pid, signal.SIGKILL)
            caught.extend(found)
            break
        time.sleep(0.0005)
    stop.set()


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _rewrite(path: Path, change: Any = lambda layer: layer, layers: int = 99, **meta: str) -> None:
    """The same segment with something changed, and checksums that fit it."""
    with files.SegmentReader(path) as reader:
        made = [change(layer).clone() for layer in reader.layers(files.Scratch())][:layers]
    shape = dataclasses.replace(reader.shape, layers=len(made), dtype=made[0].dtype)
    files.write(path, shape, made, {**reader.metadata, **meta})


def _another_dtype(path: Path) -> None:
    _rewrite(path, lambda layer: layer.float())


def _another_model(path: Path) -> None:
    _rewrite(path, layers=10)


def _another_text(path: Path) -> None:
    _rewrite(path, lambda layer: layer.flip(0), digest="0" * 40)


def _another_segment(path: Path) -> None:
    _rewrite(path, lambda layer: layer.flip(0), key="0" * 40)


@contextlib.contextmanager
def in_company(server: Server) -> Iterator[None]:
    """Another person's reply runs meanwhile, so that loads happen beside it."""
    with server.client().chat.completions.create(
        model=MODEL,
        user="company",
        messages=[{"role": "user", "content": "Count to a thousand."}],
        max_tokens=600,
        stream=True,
        extra_body={"ignore_eos": True, "memory": {"enabled": False}},
    ) as stream:
        next(iter(stream))
        yield


DAMAGES = [
    _truncate,
    _flip_a_bit,
    _empty,
    _another_dtype,
    _another_model,
    _another_text,
    _another_segment,
]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_recompute_and_never_a_wrong_token(kept, damage, alone):
    """Alone, a segment is loaded in the step that computes on it; in company, between steps."""
    name = f"{damage.__name__}-{alone}".strip("_")
    cube = make(kept, name, f"{name}. " + " ".join(RULES[:20]))
    before = len(segments(kept))
    right = text_of(ask(kept, f"{name}-1", cube))
    wait_for(lambda: len(segments(kept)) >= before + 1, "a segment")
    path = max(segments(kept), key=lambda path: (path.stat().st_mtime_ns, path.stat().st_size))
    wait_for(lambda: any(other.name == path.name for other in in_ram(kept)), "its copy in memory")
    from_disk(kept)
    failures = metric(kept, "memos_kv_load_failures_total")
    damage(path)
    with contextlib.nullcontext() if alone else in_company(kept):
        reply = ask(kept, f"{name}-2", cube)
        assert text_of(reply) == right or not alone  # bf16: other batch shapes, other last bits
    wait_for(lambda: metric(kept, "memos_kv_load_failures_total") == failures + 1, "the metric", 15)
    healed = wait_for(
        lambda: (
            (r := ask(kept, f"{name}-{time.monotonic()}", cube)) and cached_tokens(r) > 300 and r
        ),
        "a whole file in its place",
    )
    assert text_of(healed) == right


def test_a_disk_that_takes_nothing_is_a_metric_and_no_more(kept):
    folder = kept.home / "kv" / "segments"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("not a folder")
    try:
        failures = metric(kept, "memos_kv_save_failures_total")
        cube = make(kept, "full", "Full. " + " ".join(RULES[:10]))
        reply = ask(kept, "full-1", cube)
        assert text_of(ask(kept, "full-2", cube)) == text_of(reply)
        wait_for(lambda: metric(kept, "memos_kv_save_failures_total") > failures, "the metric", 15)
    finally:
        folder.unlink()
        aside.rename(folder)


@pytest.mark.parametrize("change", ["delete", "update"])
def test_a_deleted_cube_leaves_no_byte_of_kv(kept, change):
    """On no tier: neither its own segments nor chains that go on behind it."""
    cube = make(kept, f"doomed-{change}", f"Doomed by {change}. " + " ".join(RULES[:20]))
    other = make(kept, f"behind-{change}", f"Behind {change}. " + " ".join(RULES[20:30]))
    before = len(segments(kept))
    ask(kept, "q1", cube, memory={"cubes": [cube, other]})
    wait_for(lambda: len(segments(kept)) >= before + 2, "both segments")
    made = sorted(segments(kept), key=lambda path: path.stat().st_mtime_ns)[before:]
    wait_for(lambda: {path.name for path in made} <= {path.name for path in in_ram(kept)}, "copies")
    samples = [path.read_bytes()[-4096:-2048] for path in made]
    assert all(any(sample) for sample in samples)
    with kept.http() as http:
        if change == "delete":
            assert http.delete(f"/v1/memory/cubes/{cube}").status_code == 200
        else:
            patch = {"payload": {"type": "explicit", "format": "text", "content": "Short now."}}
            assert http.patch(f"/v1/memory/cubes/{cube}", json=patch).status_code == 200
    places = [*segments(kept), *in_ram(kept), *(kept.home / "kv").rglob("*.tmp")]
    for place in places:
        held = place.read_bytes()
        assert not any(sample in held for sample in samples), place


# -- near --------------------------------------------------------------------------------------------


def served(reply: Any) -> list[str]:
    return [cube["kv"] for cube in reply.memory["cubes"]]


def near(server: Server, key: str, person: str, cubes: list[str], kv: str = "near") -> Any:
    memory = {"cubes": cubes, "retrieve": False, "write": False, "kv": kv}
    return chat(server, key, person, QUESTION, memory=memory, logprobs=True, top_logprobs=20)


def distance(one: Any, other: Any) -> float:
    """Largest difference of the first token's log-probabilities, over tokens that both list."""
    left, right = (
        {top.token: top.logprob for top in reply.choices[0].logprobs.content[0].top_logprobs}
        for reply in (one, other)
    )
    return max(abs(left[token] - right[token]) for token in left.keys() & right.keys())


@pytest.fixture(scope="module")
def trio(server, keys) -> list[str]:
    """Three shared cubes, each with KV of some context: A, B behind A, C behind A."""
    cubes = [
        make(server, f"trio-{i}", f"Trio {i}. " + " ".join(RULES[i::3]), keys.acme_admin)
        for i in range(3)
    ]
    for last in cubes[1:]:
        near(server, keys.acme, "kv-trio", [cubes[0], last], kv="exact")
        wait_for(lambda last=last: chains(server, keys.acme, last), "its KV")
    return cubes


def chains(server: Server, key: str, cube: str) -> int:
    with server.http(key) as http:
        return http.get(f"/v1/memory/cubes/{cube}/activation").json()["chains"]


def test_near_puts_cubes_together_in_any_order_and_heals(server, keys, trio):
    a, b, c = trio
    full = near(server, keys.acme, "kv-n1", [c, a, b], kv="none")
    first = near(server, keys.acme, "kv-n2", [c, a, b])
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
            (reply := near(server, keys.acme, "kv-n2", [c, a, b]))
            and served(reply) == ["exact"] * 3
            and reply
        ),
        "the exact chain",
    )
    assert distance(full, healed) < 0.2


def test_approximate_blocks_are_never_handed_on(server, keys, trio):
    """Plant the poison, and look for it from a plain request of the same person."""
    a, b, c = trio
    person, order = "kv-poison", [b, c, a]
    full = near(server, keys.acme, "kv-n3", order, kv="none")
    planted = near(server, keys.acme, person, order)
    assert "near" in served(planted)
    plain = near(server, keys.acme, person, order, kv="exact")
    assert distance(full, plain) < 0.2
    assert "near" not in served(plain)
    again = near(server, keys.acme, person, order, kv="none")
    assert distance(full, again) < 0.2


def test_near_looks_only_into_contexts_that_the_person_may_read(server, keys):
    """KV that was computed behind somebody's own cube, or a cube for admins, serves nobody else."""
    secret = make(server, "hidden", "Hidden. " + " ".join(RULES[:8]), keys.acme_admin)
    with server.http(keys.acme_admin) as http:
        readers = {"access": {"readers": ["kv-insider"]}}
        assert http.patch(f"/v1/memory/cubes/{secret}", json=readers).status_code == 200
    cube = make(server, "open", "Open. " + " ".join(RULES[8:20]), keys.acme_admin)
    other = make(server, "other", "Other. " + " ".join(RULES[20:28]), keys.acme_admin)
    near(server, keys.acme, "kv-insider", [secret, cube], kv="exact")
    near(server, keys.acme, "kv-outsider", [other], kv="exact")
    wait_for(lambda: chains(server, keys.acme_admin, cube), "KV behind the hidden cube")
    wait_for(lambda: chains(server, keys.acme_admin, other), "KV of the other")
    outsider = near(server, keys.acme, "kv-outsider", [other, cube])
    assert served(outsider) == ["exact", "prefill"]
    insider = near(server, keys.acme, "kv-insider", [other, cube])
    assert served(insider)[0] == "exact"
    assert served(insider)[1] in ("near", "exact")
