"""Isolation of the prefix cache by tenant and person, on every route."""

from __future__ import annotations

from itertools import count

import pytest

from tests.engine.harness import MODEL, cached_tokens, chat

_numbers = count()
OFF = {"enabled": False}


def fresh_text() -> str:
    """A prompt of a few blocks that no other test has sent."""
    return f"Document {next(_numbers)}. " + "The quick brown fox jumps over the lazy dog. " * 20


def test_the_same_person_hits_their_own_prompt(server, keys):
    text = fresh_text()
    assert cached_tokens(chat(server, keys.acme, "ida", text, memory=OFF)) == 0
    assert cached_tokens(chat(server, keys.acme, "ida", text, memory=OFF)) >= 128


def test_other_people_other_tenants_and_anonymous_requests_do_not_hit_it(server, keys):
    text = fresh_text()
    chat(server, keys.acme, "ida", text, memory=OFF)
    for key, person in (
        (keys.acme, "jon"),
        (keys.globex, "ida"),
        (keys.acme, None),
        (keys.globex, None),
    ):
        assert cached_tokens(chat(server, key, person, text, memory=OFF)) == 0


def test_the_header_names_the_person_too(server, keys):
    text = fresh_text()
    chat(server, keys.acme, "lena", text, memory=OFF)
    header = {"X-Memos-User": "lena"}
    assert (
        cached_tokens(chat(server, keys.acme, None, text, memory=OFF, extra_headers=header)) >= 128
    )
    # The body wins where the two differ.
    assert (
        cached_tokens(chat(server, keys.acme, "max", text, memory=OFF, extra_headers=header)) == 0
    )


def test_safety_identifier_counts_before_user(server, keys):
    text = fresh_text()
    chat(server, keys.acme, "nora", text, memory=OFF)
    reply = chat(server, keys.acme, "nora", text, memory=OFF, safety_identifier="olaf")
    assert cached_tokens(reply) == 0


def test_a_client_salt_narrows_and_never_opens(server, keys):
    text = fresh_text()
    chat(server, keys.acme, "pia", text, memory=OFF, cache_salt="shared-by-agreement")
    assert cached_tokens(chat(server, keys.acme, "pia", text, memory=OFF)) == 0
    same = chat(server, keys.acme, "pia", text, memory=OFF, cache_salt="shared-by-agreement")
    assert cached_tokens(same) >= 128
    other = chat(server, keys.globex, "pia", text, memory=OFF, cache_salt="shared-by-agreement")
    assert cached_tokens(other) == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", lambda text, who: {"prompt": text, "user": who, "max_tokens": 1}),
        (
            "/v1/messages",
            lambda text, who: {
                "messages": [{"role": "user", "content": text}],
                "metadata": {"user_id": who},
                "max_tokens": 1,
            },
        ),
        (
            "/v1/responses",
            lambda text, who: {"input": text, "user": who, "max_output_tokens": 1},
        ),
    ],
)
def test_other_routes_are_salted_by_person_too(server, keys, path, body):
    # People of this route alone: these routes remember, and what is remembered begins a prompt.
    rosa, sven = (f"{name}-{path.rpartition('/')[2]}" for name in ("rosa", "sven"))
    text = fresh_text()

    def cached(key: str, who: str) -> int:
        with server.http(key) as http:
            usage = (
                http.post(path, json={"model": MODEL, **body(text, who)})
                .raise_for_status()
                .json()["usage"]
            )
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        return details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0

    assert cached(keys.acme, rosa) == 0
    assert cached(keys.acme, rosa) >= 128
    assert cached(keys.acme, sven) == 0
    assert cached(keys.globex, rosa) == 0


def test_a_prompt_as_token_ids_and_several_prompts_at_once_are_salted(server, keys):
    ids = list(range(1000, 1200))

    def cached(key: str, prompt: object) -> int:
        body = {"model": MODEL, "prompt": prompt, "user": "tora", "max_tokens": 1}
        with server.http(key) as http:
            usage = http.post("/v1/completions", json=body).raise_for_status().json()["usage"]
        return (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    assert cached(keys.acme, ids) == 0
    assert cached(keys.acme, [ids, ids]) >= 128
    assert cached(keys.globex, [ids]) == 0


def test_a_clients_kv_transfer_params_do_not_reach_the_engine(server, keys):
    reply = chat(
        server,
        keys.acme,
        "uma",
        "Hello.",
        memory=OFF,
        kv_transfer_params={"do_remote_prefill": True, "remote_block_ids": [1]},
    )
    assert reply.model_extra.get("kv_transfer_params") is None
