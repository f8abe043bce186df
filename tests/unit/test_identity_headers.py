"""Which headers name person, session and key, and that a name is one however it is written."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.api.identity import bearer
from memos_vllm.errors import BadRequest, Forbidden
from memos_vllm.governance.principal import Role, check_person, decoded
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

CUBE = {"payload": {"type": "explicit", "content": [{"type": "fact", "text": "Tea is hot."}]}}
OPEN_WEBUI = {
    "person_headers": ["X-Memos-User", "X-OpenWebUI-User-Id"],
    "session_headers": ["X-Session-ID", "X-OpenWebUI-Chat-Id"],
    "key_headers": ["X-Memos-Key", "Authorization"],
}


@pytest.fixture
def webui(tmp_path):
    system = MemorySystem(make_config(tmp_path, governance=OPEN_WEBUI)).open()
    yield system
    system.close()


def person_of(http, **headers) -> str | None:
    made = http.post("/v1/memory/cubes", json=CUBE, headers=headers)
    assert made.status_code == 201, made.text
    person: str | None = made.json()["meta"]["person"]
    return person


def test_configured_headers_name_person_and_key(webui):
    key = webui.keys.create("acme", Role.ADMIN)[1]
    http = TestClient(create_app(webui))
    sent = {"X-Memos-Key": key, "X-OpenWebUI-User-Id": "u-17"}
    assert person_of(http, **sent) == "u-17"
    assert person_of(http, **sent, **{"X-Memos-User": "first"}) == "first"
    assert person_of(http, **{**sent, "Authorization": "Bearer of-the-router"}) == "u-17"
    assert person_of(http, **{"Authorization": f"Bearer {key}", "X-OpenWebUI-User-Id": "u"}) == "u"
    # A header that is not in the list names no one.
    assert http.get("/v1/models", headers={"x-api-key": key}).status_code == 401


def test_a_token_is_for_its_person_by_every_header(webui):
    key = webui.keys.create("acme", Role.WRITER)[1]
    http = TestClient(create_app(webui))
    made = http.post(
        "/v1/memory/people/ann/tokens",
        json={"scopes": ["memory.read"]},
        headers={"X-Memos-Key": f"Bearer {key}"},
    )
    token = {"X-Memos-Key": made.json()["token"]}
    assert http.get("/v1/memory/cubes", headers=token).status_code == 200
    foreign = {**token, "X-OpenWebUI-User-Id": "bob"}
    assert http.get("/v1/memory/cubes", headers=foreign).status_code == 403


@pytest.mark.parametrize(
    "name", ["u/1", "Zoë Müller", "ann@example.org", "日本", "50% & more", "a+b c"]
)
def test_header_and_body_name_the_same_person_percent_encoded_or_not(system, name):
    http = TestClient(create_app(system), base_url="http://127.0.0.1", client=("127.0.0.1", 1))
    for form in (quote(name, safe=""), quote(name), name.encode()):
        assert person_of(http, **{"X-Memos-User": form}) == name
    for form in (name, quote(name, safe="")):
        assert principal("").as_person(form).person == name
    made = http.post("/v1/memory/cubes", json={**CUBE, "meta": {"person": quote(name, safe="")}})
    assert made.json()["meta"]["person"] == name
    listed = http.get("/v1/memory/cubes", params={"person": quote(name, safe="")})
    assert {cube["person"] for cube in listed.json()["cubes"]} == {name}


def test_a_latin_1_header_is_read_as_it_is(system):
    http = TestClient(create_app(system), base_url="http://127.0.0.1", client=("127.0.0.1", 1))
    assert person_of(http, **{"X-Memos-User": "Zoë".encode("latin-1")}) == "Zoë"


@pytest.mark.parametrize("name", ["%61lice", "%41nn", "%", "100%", "%zz", "%C3%28", "%ff", "a%2"])
def test_an_escape_that_no_encoder_writes_names_another_person(name):
    assert check_person(name) == name


@pytest.mark.parametrize("name", ["%252F", "%25252F", "%25%32%46", "100%25", "%2541", "a%20%25b"])
def test_decoding_a_name_again_changes_nothing(name):
    assert decoded(decoded(name)) == decoded(name)


def test_a_token_reads_its_own_name_in_any_form():
    import dataclasses

    bound = dataclasses.replace(principal("u/1"), token_id="t")
    assert bound.as_person("u%2F1").person == "u/1"
    with pytest.raises(Forbidden):
        bound.as_person("u%2F2")
    with pytest.raises(BadRequest):
        bound.as_person("u%00")


def test_a_key_header_may_carry_the_key_alone_but_authorization_may_not():
    assert bearer({"x-key": "abc"}, ["X-Key"]) == "abc"
    assert bearer({"x-key": "Bearer abc"}, ["X-Key"]) == "abc"
    assert bearer({"authorization": "abc"}, ["Authorization"]) is None
    assert bearer({"authorization": "Basic abc", "x-api-key": "key"}) == "key"
    assert bearer({"x-api-key": "key"}, []) is None
