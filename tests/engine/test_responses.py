"""`/v1/responses` with memory and with its state in the vault, through OpenAI's own client."""

from __future__ import annotations

import openai
import pytest

from tests.engine.harness import MODEL, wait_for
from tests.engine.test_messages import fact

ASKED = "What is my dog called?"
QUIET = {"memory": {"write": False}}


def respond(server, key, person, text, **extra):
    body = {**QUIET, **extra.pop("body", {})}
    headers = {"X-Memos-User": person} if person else {}
    return server.client(key).responses.create(
        model=MODEL,
        input=text,
        max_output_tokens=6,
        temperature=0,
        extra_body=body,
        extra_headers=headers,
        **extra,
    )


@pytest.fixture(scope="module")
def ines(server, keys) -> str:
    return fact(server, keys.acme, "ines", "The dog of Ines is called Tofu.")


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        [{"role": "user", "content": ASKED}],
        [
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASKED}]},
        ],
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": ASKED},
        ],
    ],
)
@pytest.mark.parametrize("instructions", [None, "You are kind."])
def test_every_form_of_input_gets_memory(server, keys, ines, asked, instructions):
    reply = respond(server, keys.acme, "ines", asked, instructions=instructions)
    assert [cube["id"] for cube in reply.memory["cubes"]] == [ines]
    assert reply.memory["injected_tokens"] > 0
    assert reply.instructions == instructions  # as it was sent, without memory
    plan = server.http(keys.acme, "ines").get(reply.memory["explain"]).raise_for_status().json()
    assert plan["request_id"] == reply.id


def test_tools_of_a_conversation_pass_through(server, keys, ines):
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}
    asked = [
        {"role": "user", "content": ASKED},
        {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "noon"},
    ]
    reply = respond(server, keys.acme, "ines", asked, tools=[tool])
    assert [cube["id"] for cube in reply.memory["cubes"]] == [ines]


def test_the_last_event_of_a_stream_has_memory(server, keys, ines):
    events = list(respond(server, keys.acme, "ines", ASKED, instructions="Hi.", stream=True))
    assert events[0].type == "response.created"
    assert events[0].response.instructions == "Hi."
    last = events[-1]
    assert last.type == "response.completed"
    assert [cube["id"] for cube in last.response.memory["cubes"]] == [ines]
    assert last.response.memory["stored"] is True
    with server.client(keys.acme).responses.stream(
        model=MODEL,
        input=ASKED,
        max_output_tokens=4,
        extra_headers={"X-Memos-User": "ines"},
        extra_body=QUIET,
    ) as stream:
        final = list(stream)[-1]
    assert final.response.memory["injected_tokens"] > 0


def test_another_person_has_none_of_it_and_errors_are_openais(server, keys, ines):
    assert respond(server, keys.acme, "ivo", ASKED).memory["cubes"] == []
    assert respond(server, keys.globex, "ines", ASKED).memory["cubes"] == []
    with pytest.raises(openai.BadRequestError, match=r"memory\.cubes"):
        respond(server, keys.acme, "ines", ASKED, body={"memory": {"cube": []}})
    with pytest.raises(openai.PermissionDeniedError):
        respond(server, keys.acme_reader, "ines", ASKED, body={"memory": {"write": True}})


def test_a_response_is_remembered_streamed_or_not(server, keys):
    reply = respond(server, keys.acme, "ilka", "My boat is called Petrel.", body={"memory": {}})
    assert reply.memory["written"] is True
    list(respond(server, keys.acme, "ilka", "My barn is green.", body={"memory": {}}, stream=True))
    with server.http(keys.acme, "ilka") as http:
        for asked, word in (("boat name", "Petrel"), ("barn colour", "green")):
            wait_for(
                lambda asked=asked, word=word: (
                    word in http.post("/v1/memory/search", json={"query": asked}).text
                ),
                "the response became memory",
            )


def test_a_full_quota_is_a_429_in_the_envelope_with_a_way_out(server, keys):
    first = respond(server, keys.limited, "ina", "Hello.")
    assert first.memory["stored"] is True
    with pytest.raises(openai.RateLimitError, match="`store: false`") as refused:
        respond(server, keys.limited, "ina", "Hello again.")
    assert refused.value.type == "insufficient_quota"
    with pytest.raises(openai.RateLimitError):
        list(respond(server, keys.limited, "ina", "Hello again.", stream=True))
    assert respond(server, keys.limited, "ina", "Hello.", store=False).memory["stored"] is False
    with server.http(keys.limited, "ina") as http:
        assert http.get("/v1/memory/use").json()["person"]["responses"]["used"] == 1
        http.delete(f"/v1/responses/{first.id}").raise_for_status()
    assert respond(server, keys.limited, "ina", "Hello.").memory["stored"] is True


def prompt_tokens(reply) -> int:
    return reply.usage.input_tokens


def test_a_response_continues_the_one_before(server, keys):
    first = respond(server, keys.acme, "ida", "Say one.", body={"memory": {"retrieve": False}})
    second = respond(
        server, keys.acme, "ida", "Say two.", previous_response_id=first.id, instructions="Count."
    )
    assert second.previous_response_id == first.id
    third = list(
        respond(server, keys.acme, "ida", "Say three.", previous_response_id=second.id, stream=True)
    )[-1].response
    assert prompt_tokens(first) < prompt_tokens(third)
    # The same conversation sent whole has the same prompt: instructions do not carry over.
    whole = [
        {"role": "user", "content": "Say one."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Say two."},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "Say three."},
    ]
    assert prompt_tokens(respond(server, keys.acme, "ida", whole)) == prompt_tokens(third)
    with server.http(keys.acme, "ida") as http:
        stored = http.get(f"/v1/responses/{second.id}").raise_for_status().json()
        assert stored["id"] == second.id
        assert stored["output"][0]["content"][0]["text"] == second.output_text
        items = http.get(f"/v1/responses/{second.id}/input_items").json()["data"]
        assert items == [{"role": "user", "content": "Say two."}]
    client = server.client(keys.acme).with_options(default_headers={"X-Memos-User": "ida"})
    assert client.responses.retrieve(third.id).output_text == third.output_text
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    without = respond(server, keys.acme, "ida", "Say four.", previous_response_id=third.id)
    assert without.previous_response_id == third.id
    rest = [*whole[:2], whole[4], {"role": "assistant", "content": third.output_text}]
    rest.append({"role": "user", "content": "Say four."})
    assert prompt_tokens(respond(server, keys.acme, "ida", rest)) == prompt_tokens(without)


def test_a_stored_response_is_its_persons_alone(server, keys):
    made = respond(server, keys.acme, "isa", "Hello.")
    nameless = respond(server, keys.acme, None, "Hello.")
    assert made.memory["stored"] is nameless.memory["stored"] is True
    for key, person in ((keys.acme, "eve"), (keys.globex, "isa"), (keys.acme, None)):
        with server.http(key, person) as http:
            for method in ("GET", "DELETE"):
                assert http.request(method, f"/v1/responses/{made.id}").status_code == 404
            assert http.get(f"/v1/responses/{made.id}/input_items").status_code == 404
        with pytest.raises(openai.NotFoundError):
            respond(server, key, person, "Go on.", previous_response_id=made.id)
    # Without a person, it is the key's alone.
    with server.http(keys.acme_admin) as other, server.http(keys.acme) as own:
        assert other.get(f"/v1/responses/{nameless.id}").status_code == 404
        assert own.get(f"/v1/responses/{nameless.id}").status_code == 200


def test_what_is_not_stored_says_why(server, keys):
    refused = respond(server, keys.acme, "isa", "Hello.", store=False)
    assert (refused.memory["stored"], refused.store) == (False, False)
    assert "store" in refused.memory["not_stored"]
    reader = respond(server, keys.acme_reader, "isa", "Hello.", body={"memory": {}})
    assert "reader" in reader.memory["not_stored"]
    chosen = respond(server, keys.acme, "isa", "Hello.", body={"request_id": refused.id})
    assert chosen.id != refused.id


def test_a_conversation_is_kept_and_deleted_with_its_memory(server, keys):
    client = server.client(keys.acme).with_options(default_headers={"X-Memos-User": "ian"})
    made = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "I am Ian."}], metadata={"a": "b"}
    )
    assert client.conversations.retrieve(made.id).metadata == {"a": "b"}
    first = respond(
        server,
        keys.acme,
        "ian",
        "My kite is called Vireo.",
        conversation=made.id,
        body={"memory": {}},
    )
    assert first.conversation.id == made.id
    bare = respond(server, keys.acme, "ian", "Go on.")
    with_all = respond(server, keys.acme, "ian", "Go on.", conversation={"id": made.id})
    assert prompt_tokens(with_all) > prompt_tokens(bare) + 20
    with server.http(keys.acme, "ian") as http:
        items = http.get(f"/v1/conversations/{made.id}/items").json()["data"]
        assert [item["role"] for item in items] == ["user"] * 2 + ["assistant", "user", "assistant"]
        search = {"query": "kite name"}
        wait_for(
            lambda: "Vireo" in http.post("/v1/memory/search", json=search).text, "it became memory"
        )
    for key, person in ((keys.acme, "eve"), (keys.globex, "ian")):
        with server.http(key, person) as http:
            assert http.get(f"/v1/conversations/{made.id}").status_code == 404
            assert http.delete(f"/v1/conversations/{made.id}").status_code == 404
        with pytest.raises(openai.NotFoundError):
            respond(server, key, person, "Hi.", conversation=made.id)
    with pytest.raises(openai.BadRequestError, match="conversation"):
        respond(
            server, keys.acme, "ian", "Hi.", conversation=made.id, previous_response_id=first.id
        )
    with server.http(keys.acme, "ian") as http:
        gone = http.delete(f"/v1/conversations/{made.id}?memory=true").raise_for_status().json()
        assert gone["memory"]["count"] >= 1
        assert http.get(f"/v1/responses/{first.id}").status_code == 404
        assert http.get(f"/v1/conversations/{made.id}").status_code == 404
        assert "Vireo" not in http.post("/v1/memory/search", json=search).text


def test_secrets_are_not_stored(server, keys):
    secret = "sk-proj-" + "a1B2c3D4e5" * 4
    made = respond(server, keys.acme, "isa", f"My OpenAI key is {secret}.")
    with server.http(keys.acme, "isa") as http:
        for path in ("", "/input_items"):
            assert secret not in http.get(f"/v1/responses/{made.id}{path}").text


def test_a_chat_token_reads_and_deletes_no_state(server, keys):
    with server.http(keys.acme) as http:
        made = http.post("/v1/memory/people/isa/tokens", json={"scopes": ["chat"]}).json()
    stored = respond(server, keys.acme, "isa", "Hello.")
    with server.http(made["token"]) as http:
        assert http.get(f"/v1/responses/{stored.id}").status_code == 403
        assert http.delete(f"/v1/responses/{stored.id}").status_code == 403
        assert http.post("/v1/conversations", json={}).status_code == 403
