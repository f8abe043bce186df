"""A browser without script for tests of the console: signs in, reads pages, sends their forms."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.console.app import attach
from memos_vllm.cube.model import Placement
from memos_vllm.governance.principal import Role
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry
from memos_vllm.system import MemorySystem
from tests.conftest import principal

ORIGIN = "https://memory.test"
_TOKEN = re.compile(r'name="form_token" value="(\w+)"')
_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


def console_app(system: MemorySystem) -> FastAPI:
    """The Memory API with the console, without an engine."""
    app = create_app(system)
    attach(app)
    return app


class FakeChat:
    """A chat route that answers in the form of the engine's, and keeps who asked what."""

    def __init__(self, app: FastAPI, memory: dict[str, Any] | None = None) -> None:
        """
        Args:
            memory: of replies with memory.
        """
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        """Principal and body of each request."""
        self.memory = {"cubes": [], "injected_tokens": 0, "written": False} | (memory or {})
        self.replies = ["Oolong.", "I do not know."]
        """With memory, and without."""
        self.failure: JSONResponse | Exception | None = None
        self.logprobs: dict[tuple[str, str], float] = {}
        """(id that is left out, word of the reply) → log-probability; -1 where there is none."""
        app.add_api_route("/v1/chat/completions", self.answer, methods=["POST"])

    async def answer(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.asked.append((request.state.memos_principal, body))
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            return self.failure
        if "prompt_logprobs" in body:
            return self.scored(body)
        is_plain = body["memory"].get("enabled") is False
        message = {"role": "assistant", "content": self.replies[is_plain]}
        reply: dict[str, Any] = {
            "id": f"chatcmpl-{len(self.asked)}",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20 if is_plain else 61, "completion_tokens": 5},
        }
        return JSONResponse(reply if is_plain else reply | {"memory": self.memory})

    def scored(self, body: dict[str, Any]) -> JSONResponse:
        """Log-probabilities of a prompt that ends with the reply, a token for each word."""
        (left_out,) = body["memory"].get("without") or [""]
        words = [
            "<memory>",
            "assistant",
            "\n",
            *re.findall(r"\s*\S+", body["messages"][-1]["content"]),
        ]
        listed = [
            {
                str(n): {
                    "logprob": self.logprobs.get((left_out, word.strip()), -1.0),
                    "decoded_token": word,
                }
            }
            for n, word in enumerate(words)
        ]
        cubes = []
        for cube in self.memory["cubes"]:
            items = [item for item in cube["items"] if item["id"] != left_out]
            if items or (not cube["items"] and cube["id"] != left_out):
                cubes.append(cube | {"items": items})
        usage = {"prompt_tokens": 100, "completion_tokens": 1}
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "length"}
        memory = self.memory | {"cubes": cubes, "cached_tokens": 0}
        return JSONResponse(
            {
                "choices": [choice],
                "usage": usage,
                "memory": memory,
                "prompt_logprobs": [None, *listed],
            }
        )


class Browser:
    def __init__(self, app: FastAPI, credential: str | None = None) -> None:
        """
        Args:
            credential: signs in with it; None: stays in front of the sign-in.
        """
        self.http = TestClient(
            app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False
        )
        if credential is not None:
            reply = self.sign_in(credential)
            assert reply.status_code == 303, reply.text

    def sign_in(self, credential: str) -> Any:
        page = self.http.get("/memory/sign-in")
        return self.http.post(
            "/memory/sign-in", data={"key": credential, "form_token": token_in(page.text)}
        )

    def get(self, path: str, **query: Any) -> Any:
        return self.http.get(address(path, query))

    def post(self, path: str, fields: dict[str, str], **query: Any) -> Any:
        """Send a form with the token of this session."""
        token = token_in(self.http.get("/memory/nowhere").text)
        return self.http.post(address(path, query), data={**fields, "form_token": token})

    def hidden(self, path: str, **query: Any) -> dict[str, str]:
        """Hidden fields of a page's forms, the last of each name."""
        return dict(_HIDDEN.findall(self.get(path, **query).text))


def address(path: str, query: dict[str, Any]) -> str:
    place = "/memory" + (f"/{path}" if path else "")
    return f"{place}?{urlencode(query)}" if query else place


def token_in(page: str) -> str:
    found = _TOKEN.search(page)
    assert found is not None, page
    return found[1]


def key_of(system: MemorySystem, role: Role = Role.ADMIN, tenant: str = "acme") -> str:
    return system.keys.create(tenant, role)[1]


def store_plan(
    system: MemorySystem,
    request: str,
    person: str = "alice",
    tenant: str = "acme",
    entries: tuple[PlanEntry, ...] = (),
    **fields: Any,
) -> None:
    plan = MemoryPlan(request_id=request, person=person, entries=list(entries), **fields)
    system.plans.put(principal(person, tenant), request, plan.model_dump(mode="json"))


def entry(cube: str, item: str | None = None, **fields: Any) -> PlanEntry:
    given: dict[str, Any] = {
        "version": "v_1",
        "placement": Placement.RETRIEVED,
        "reason": "fits the budget",
    }
    return PlanEntry(cube=cube, item=item, **(given | fields))
