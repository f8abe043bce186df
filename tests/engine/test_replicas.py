"""Two replicas with one memory, behind vLLM's own router, on Postgres and a Chroma server."""

from __future__ import annotations

import concurrent.futures
import itertools
import signal
import time
import uuid
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.effort import EFFORT
from tests.engine.harness import MODEL, Server, cached_tokens, chat, wait_for
from tests.engine.kv import RULES, ask, make
from tests.engine.replicas import Replicas, Router, Traces
from tests.http_server import served
from tests.nginx import nginx

FACT = "My parrot is called Polly."
QUESTION = "What is my parrot called?"
MESSAGE = {"role": "user", "content": FACT}
LOST = (httpx.TransportError,)
"""What a client that goes on after a lost connection tries once more."""


@pytest.fixture(scope="module")
def traces() -> Traces:
    return Traces()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, postgres_url, traces) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    with served(traces) as url:
        flags = ("--otlp-traces-endpoint", f"{url}/v1/traces")
        made = Replicas(folder, postgres_url(), flags)
        with made.running() as running:
            yield running


@pytest.fixture(scope="module")
def router(replicas) -> Iterator[Router]:
    pytest.importorskip(
        "vllm_router", reason="the router is not installed: pip install vllm-router"
    )
    with Router(replicas).running() as running:
        yield running


def new_person() -> str:
    return f"person-{uuid.uuid4().hex[:8]}"


def known(server: Server, key: str, person: str) -> str:
    """What the prompt of a question has of the person's memory."""
    reply = chat(server, key, person, QUESTION, memory={"write": False})
    assert reply.memory["degraded"] == []
    with server.http(key, person) as http:
        items = [item["id"] for cube in reply.memory["cubes"] for item in cube["items"]]
        found = http.post("/v1/memory/search", json={"query": QUESTION}).json()["results"]
    return " ".join(hit["item"]["text"] for hit in found if hit["item"]["id"] in items)


def test_what_one_replica_was_told_the_other_knows_at_the_next_request(replicas):
    for teller, asked in itertools.permutations(replicas.servers):
        for _ in range(3):
            person = new_person()
            assert chat(teller, replicas.key, person, FACT).memory["written"]
            assert "Polly" in known(asked, replicas.key, person)


def test_kv_that_one_replica_computed_is_loaded_by_the_other(replicas):
    one, two = replicas.servers
    text = " ".join(RULES)
    cube = make(one, "rules", text, replicas.admin)
    with one.http(replicas.admin) as http:
        made = http.post(f"/v1/memory/cubes/{cube}/activate", json={})
    assert made.status_code == 200, made.text
    reply = ask(two, new_person(), cube, replicas.key)
    assert cached_tokens(reply) > 600
    assert reply.memory["cubes"][0]["form"] == "kv"


def test_what_is_deleted_on_one_replica_is_gone_on_the_other(replicas):
    one, two = replicas.servers
    person = new_person()
    text = "Diary. " + " ".join(RULES[:12])
    cube = make(one, "diary", text, replicas.key, as_person=person, person=person)
    ask(two, person, cube, replicas.key)
    assert cached_tokens(ask(two, person, cube, replicas.key)) > 200, "the other one has its KV"
    with one.http(replicas.key, person) as http:
        assert http.delete(f"/v1/memory/cubes/{cube}").status_code == 200
    with pytest.raises(openai.NotFoundError):
        ask(two, person, cube, replicas.key)
    assert "office" not in known(two, replicas.key, person)


def test_an_erased_person_is_erased_on_both(replicas):
    one, two = replicas.servers
    person = new_person()
    for server in (one, two):
        chat(server, replicas.key, person, FACT)
        assert "Polly" in known(server, replicas.key, person)
    text = "Diary. " + " ".join(RULES[:12])
    cube = make(one, "diary", text, replicas.key, as_person=person, person=person)
    ask(two, person, cube, replicas.key)
    assert cached_tokens(ask(two, person, cube, replicas.key)) > 200
    with one.http(replicas.admin) as http:
        erased = http.delete(f"/v1/memory/people/{person}")
        assert erased.status_code in (200, 202), erased.text

        def done() -> bool:
            url = erased.headers.get("location") or f"/v1/memory/erasures/{erased.json()['id']}"
            return http.get(url).json()["state"] == "done"

        wait_for(done, "the erasure")
    assert known(two, replicas.key, person) == ""
    again = make(two, "diary", text, replicas.key, as_person=person, person=person)
    assert cached_tokens(ask(two, person, again, replicas.key)) == 0, "not from an engine's cache"


def test_the_steps_of_memory_and_the_engine_are_spans_of_the_clients_trace(replicas, traces):
    server, person = replicas.servers[0], new_person()
    chat(server, replicas.key, person, FACT)
    trace = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-{'b7ad6b7169203331'}-01"}
    reply = chat(server, replicas.key, person, QUESTION, extra_headers=headers)
    assert reply.memory["cubes"]
    wanted = {"llm_request", "memos.stable", "memos.search", "memos.render"}
    found = wait_for(
        lambda: spans if wanted <= (spans := traces.of(trace)).keys() else None, "the spans", 30
    )
    assert found["memos.search"].parent_span_id.hex() == "b7ad6b7169203331"
    ours = [span for name, span in found.items() if name.startswith("memos.")]
    assert not any(span.attributes or span.events for span in ours)


def test_a_server_that_embeds_otherwise_does_not_join(replicas):
    odd = replicas.server("three", MEMOS__EMBEDDER__PASSAGE_PREFIX="passage")
    with pytest.raises(AssertionError, match="did not start"):
        odd.start()
    assert "this server shares its database with the process" in odd.log()
    assert "its embedder is" in odd.log()


class Conversations:
    """People who talk through the router; a client tries a request once more that failed."""

    def __init__(self, router: Router, key: str, people: int) -> None:
        self._router, self._key = router, key
        self.people = [new_person() for _ in range(people)]
        self.failed: list[str] = []

    def talk(self, person: str, number: int) -> None:
        body = {
            "model": MODEL,
            "user": person,
            "max_tokens": 2,
            "messages": [{"role": "user", "content": f"My number {number} is {number * 37}."}],
        }
        headers = {"Authorization": f"Bearer {self._key}", "X-Session-ID": person}
        answers = [self._post(body, headers)]
        if answers[0] != "200":
            time.sleep(1)
            answers.append(self._post(body, headers))
        if answers[-1] != "200":
            self.failed.append(f"{person} {number}: {answers}")

    def _post(self, body: dict[str, object], headers: dict[str, str]) -> str:
        try:
            reply = httpx.post(
                f"{self._router.url}/v1/chat/completions", json=body, headers=headers, timeout=180
            )
        except LOST as error:
            return type(error).__name__
        return str(reply.status_code) if reply.status_code == 200 else reply.text[:200]


def test_a_replica_that_is_killed_costs_no_request_and_no_turn(replicas, router):
    one, two = replicas.servers
    talks = Conversations(router, replicas.key, people=10)
    each = 20 if EFFORT >= 2 else 6
    turns = [(person, number) for number in range(each) for person in talks.people]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(talks.talk, *turn) for turn in turns]
        wait_for(lambda: sum(talk.done() for talk in running) > len(turns) // 4, "some", 600)
        one.kill(signal.SIGKILL)
        one.start()
        concurrent.futures.wait(running)
    assert talks.failed == []
    wanted = {f"My number {number} is {number * 37}." for number in range(each)}

    def all_turns() -> bool:
        return all(wanted <= said(two, replicas.key, person) for person in talks.people)

    wait_for(all_turns, "all turns becoming memory")


def said(server: Server, key: str, person: str) -> set[str]:
    """Texts of the person's conversations."""
    with server.http(key, person) as http:
        found = http.get("/v1/memory/cubes", params={"name_prefix": "chat-"}).json()["cubes"]
        cubes = [http.get(f"/v1/memory/cubes/{each['id']}").json() for each in found]
    return {item["text"] for cube in cubes for item in cube["payload"]["content"]}


ROUTES = (
    ("/v1/memory/search", {"query": QUESTION}),
    ("/v1/responses", {"model": MODEL, "input": FACT, "max_output_tokens": 16}),
    ("/v1/messages", {"model": MODEL, "messages": [MESSAGE], "max_tokens": 2}),
    ("/v1/completions", {"model": MODEL, "prompt": FACT, "max_tokens": 2}),
    ("/v1/chat/completions", {"model": MODEL, "messages": [MESSAGE], "max_tokens": 2}),
)


def test_the_router_drops_the_key_on_other_routes_and_nginx_leads_past_it(
    replicas, router, tmp_path
):
    headers = {"Authorization": f"Bearer {replicas.key}", "X-Memos-User": new_person()}
    alone = [
        httpx.post(f"{router.url}{path}", json=body, headers=headers, timeout=180).status_code
        for path, body in ROUTES
    ]
    assert alone == [401, 401, 401, 200, 200], "deploy/nginx-router.conf is for these"
    ports = {f"memos-{n}:8000": each.port for n, each in enumerate(replicas.servers, 1)}
    with nginx("nginx-router.conf", tmp_path, {**ports, "vllm-router:8001": router.port}) as front:
        for path, body in ROUTES:
            reply = front.post(path, json=body, headers=headers)
            assert reply.status_code == 200, (path, reply.text)
        listed = front.get("/v1/memory/cubes", headers=headers)
        assert listed.status_code == 200, listed.text
        assert front.get("/v1/memory/cubes").status_code == 401
        assert front.get("/metrics", headers=headers).status_code == 403
