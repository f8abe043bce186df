"""Distillation of a cube into an adapter on a running server, and decoding into text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.effort import long
from tests.engine.conftest import Keys
from tests.engine.harness import MODEL, Server, wait_for

TEXT = "The code word of Orion Station is KESTREL-17. The door of Orion Station is painted violet."
EXAM = [
    {"question": "What is the code word of Orion Station?", "answer": "KESTREL-17"},
    {"question": "What colour is the door of Orion Station?", "answer": "violet"},
]
GATE = {"recall_of_ceiling": 0.4, "perplexity_ratio": 1.2}
"""Mild: what a small model learns in a minute differs from machine to machine."""
RECIPE = {"questions": 6, "epochs": 5, "rank": 8}
SECONDS = 900
pytestmark = pytest.mark.timeout(1200)


def made(http: httpx.Client, content: str, **meta: Any) -> str:
    payload = {"type": "explicit", "format": "text", "content": content}
    reply = http.post("/v1/memory/cubes", json={"meta": meta, "payload": payload})
    assert reply.status_code == 201, reply.text
    return reply.json()["meta"]["id"]


def segments_of(http: httpx.Client, cube: str) -> list[str]:
    reply = http.get(f"/v1/memory/cubes/{cube}/activation")
    assert reply.status_code == 200, reply.text
    return reply.json()["segments"]


def ended(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    def look() -> Any:
        found = http.get(f"/v1/memory/jobs/{job['id']}").json()
        return found["state"] not in ("queued", "running") and found

    return wait_for(look, "the end of the job", SECONDS)


def asked(http: httpx.Client, question: str, **body: Any) -> dict[str, Any]:
    sent = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 16,
        "memory": {"retrieve": False, "write": False},
        **body,
    }
    reply = http.post("/v1/chat/completions", json=sent)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def una(server: Server, keys: Keys) -> httpx.Client:
    return server.http(keys.lora, "una")


@pytest.fixture(scope="module")
def learnt(una: httpx.Client) -> Iterator[dict[str, Any]]:
    """The finished job that distilled Una's cube into an adapter."""
    cube = made(una, TEXT, name="orion")
    request = {"name": "knows-orion", "exam": EXAM, "gate": GATE, "recipe": RECIPE}
    reply = una.post(f"/v1/memory/cubes/{cube}/distill", json=request)
    assert reply.status_code == 202, reply.text
    yield ended(una, reply.json()) | {"cube": cube}
    una.delete(f"/v1/memory/cubes/{cube}", params={"cascade": True})


def test_a_distilled_adapter_answers_with_nothing_in_the_prompt(una, learnt):
    assert learnt["state"] == "done", learnt
    report = learnt["report"]
    assert report["recall"]["adapter"] > report["recall"]["floor"]
    assert "said" not in report, "a report shows no text"
    plain = asked(una, EXAM[0]["question"])
    reply = asked(una, EXAM[0]["question"], model="knows-orion")
    assert EXAM[0]["answer"] in reply["choices"][0]["message"]["content"]
    assert EXAM[0]["answer"] not in plain["choices"][0]["message"]["content"]
    assert reply["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_a_distilled_adapter_has_its_sources_owner_and_names_its_source(server, keys, una, learnt):
    cube = una.get("/v1/memory/cubes/knows-orion").json()
    assert cube["meta"]["person"] == "una"
    assert cube["meta"]["provenance"]["parents"] == [learnt["cube"]]
    assert cube["meta"]["provenance"]["origin"] == "transform:distill"
    assert cube["payload"]["content"]["rank"] == 8, "the server's limit"
    other = server.http(keys.lora, "vic")
    body = {"model": "knows-orion", "messages": [{"role": "user", "content": "Hello"}]}
    assert other.post("/v1/chat/completions", json=body).status_code == 404
    assert other.get(f"/v1/memory/jobs/{learnt['id']}").status_code == 404


@long
def test_an_adapter_is_decoded_into_text(una, learnt):
    topics = ["the code word of Orion Station"]
    request = {"name": "orion-again", "topics": topics, "samples": 2, "agreement": 0.5, "rounds": 1}
    request |= {"state": "activated", "kv": True}
    job = una.post("/v1/memory/cubes/knows-orion/decode", json=request).json()
    job = ended(una, job)
    assert job["state"] == "done", job
    assert job["report"]["precision"] > 0
    cube = una.get("/v1/memory/cubes/orion-again").json()
    said = " ".join(item["text"] for item in cube["payload"]["content"])
    assert "KESTREL-17" in said or "violet" in said
    assert cube["meta"]["provenance"]["parents"] == [learnt["made"]]
    kept = una.get("/v1/memory/cubes/orion-again/activation").json()
    assert kept["chains"] >= 1, "its KV was built"


def test_a_running_job_is_cancelled(una):
    cube = made(una, TEXT)
    job = una.post(f"/v1/memory/cubes/{cube}/distill", json={"name": "never"}).json()

    def works() -> bool:
        return bool(una.get(f"/v1/memory/jobs/{job['id']}").json()["progress"].get("done"))

    wait_for(works, "progress", SECONDS)
    assert una.post(f"/v1/memory/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    time.sleep(3)
    assert una.get(f"/v1/memory/jobs/{job['id']}").json()["state"] == "cancelled"
    assert una.get("/v1/memory/cubes/never").status_code == 404
    una.delete(f"/v1/memory/cubes/{cube}")


def test_a_rank_above_the_servers_limit_is_refused(una):
    cube = made(una, TEXT)
    request = {"recipe": {"rank": 64}}
    reply = una.post(f"/v1/memory/cubes/{cube}/distill", json=request)
    assert reply.status_code == 422
    assert "--max-lora-rank 8" in reply.json()["error"]["message"]
    una.delete(f"/v1/memory/cubes/{cube}")


def test_a_distilled_adapter_is_deleted_with_its_source(una, learnt):
    gone = una.delete(f"/v1/memory/cubes/{learnt['cube']}", params={"cascade": True}).json()
    assert learnt["made"] in gone["deleted_too"]
    for name in ("knows-orion", "orion-again"):
        assert una.get(f"/v1/memory/cubes/{name}").status_code == 404
    body = {"model": "knows-orion", "messages": [{"role": "user", "content": "Hello"}]}
    assert una.post("/v1/chat/completions", json=body).status_code == 404
    assert una.get(f"/v1/memory/jobs/{learnt['id']}").status_code == 404


@long
def test_stored_kv_becomes_an_adapter_and_text(server, keys):
    http = server.http(keys.lora, "kim")
    cube = made(http, TEXT)
    try:
        request = {
            "teacher": "kv",
            "name": "from-kv",
            "exam": EXAM,
            "gate": GATE,
            "recipe": RECIPE,
        }
        job = http.post(f"/v1/memory/cubes/{cube}/distill", json=request).json()
        done = ended(http, job)
        assert done["state"] == "done", done
        with_kv = asked(http, EXAM[0]["question"], model="from-kv")
        assert with_kv["memory"]["cubes"][0]["name"] == "from-kv"
        assert with_kv["memory"]["injected_tokens"] == 0
        keys_of_it = segments_of(http, cube)
        assert keys_of_it  # built for the teacher, and stored
        jobs = [http.post(f"/v1/memory/activation/{key}/recover").json() for key in keys_of_it]
        ends = [ended(http, job) for job in jobs]
        back = [job for job in ends if job["state"] == "done"]
        assert len(back) == 1, ends
        text = http.get(f"/v1/memory/cubes/{back[0]['made']}").json()
        assert "".join(item["text"] for item in text["payload"]["content"]) == TEXT
        assert text["meta"]["provenance"]["parents"] == [cube]
        stranger = server.http(keys.lora, "lee")
        assert stranger.post(f"/v1/memory/activation/{keys_of_it[0]}/recover").status_code == 404
    finally:
        http.delete(f"/v1/memory/cubes/{cube}", params={"cascade": True})
