"""`/v1/memory/people/{person}/tokens` and `…/view`: person tokens, and links that open the console with one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request
from pydantic import ConfigDict, Field

from memos_vllm.api.access import CONSOLE_PREFIX
from memos_vllm.api.models import ERRORS, Caller, System
from memos_vllm.api.models import Body as Strict
from memos_vllm.cube.ids import to_datetime
from memos_vllm.errors import NotBuilt
from memos_vllm.governance.principal import MAX_NAME_LENGTH, Scope
from memos_vllm.governance.tokens import LONGEST_SECONDS
from memos_vllm.system import MemorySystem
from memos_vllm.vault.person_tokens import TokenRecord

router = APIRouter(prefix="/v1/memory/people", tags=["person tokens"], responses=ERRORS)

Person = Annotated[
    str,
    Path(description="person of the tenant", max_length=MAX_NAME_LENGTH, pattern=r"^[^\x00]+$"),
]
TokenId = Annotated[str, Path(description="id of a token", max_length=64, pattern=r"^[^\x00/]+$")]


class TokenRequest(Strict):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"scopes": ["chat", "memory.read"], "ttl_seconds": 900}]},
    )
    scopes: list[Scope] = Field(min_length=1, max_length=16)
    ttl_seconds: int = Field(900, ge=1, le=LONGEST_SECONDS)


class TokenView(Strict):
    id: str
    person: str
    scopes: list[str]
    key: str = Field(description="id of the key that made it")
    created: datetime
    expires: datetime
    revoked: datetime | None


class NewToken(TokenView):
    token: str = Field(description="sent as `Authorization: Bearer`; shown this once")


class ViewRequest(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"ttl_seconds": 900}]}
    )
    scopes: list[Scope] = Field(
        default=[Scope.READ, Scope.WRITE, Scope.DELETE],
        min_length=1,
        max_length=16,
        description="`memory.read` alone: the person sees their memory and cannot change it",
    )
    ttl_seconds: int = Field(900, ge=1, le=LONGEST_SECONDS)


class NewView(NewToken):
    url: str = Field(description="opens the person's view in a browser until `expires`")


class Tokens(Strict):
    tokens: list[TokenView]


@router.post("/{person:path}/tokens", status_code=201)
def create_token(system: System, caller: Caller, person: Person, request: TokenRequest) -> NewToken:
    """Make a token for one person. Needs a `writer` or `admin` key; a token makes no tokens."""
    made, token = system.keys.tokens.create(caller, person, request.scopes, request.ttl_seconds)
    return NewToken(**_view(made).model_dump(), token=token)


@router.post("/{person:path}/view", status_code=201)
def create_view(
    system: System, caller: Caller, request: Request, person: Person, view: ViewRequest
) -> NewView:
    """Make a link to the person's own view in the console, for the application to hand to the person.

    It holds a token for this person alone. Needs a `writer` or `admin` key.
    """
    if not system.config.console.enabled:
        raise NotBuilt("this server has no console: `console.enabled` is false")
    made, token = system.keys.tokens.create(caller, person, view.scopes, view.ttl_seconds)
    url = view_address(request, system, token)
    return NewView(**_view(made).model_dump(), token=token, url=url)


def view_address(request: Request, system: MemorySystem, token: str) -> str:
    """Address that opens the console with a token: below `console.url`, else below that of the request."""
    server = (system.config.console.url or str(request.base_url)).rstrip("/")
    return f"{server}{CONSOLE_PREFIX}/view?{urlencode({'token': token})}"


@router.get("/{person:path}/tokens")
def list_tokens(system: System, caller: Caller, person: Person) -> Tokens:
    """The person's tokens that have not expired, without their strings."""
    return Tokens(tokens=[_view(each) for each in system.keys.tokens.of_person(caller, person)])


@router.delete("/{person:path}/tokens/{token}")
def revoke_token(system: System, caller: Caller, person: Person, token: TokenId) -> TokenView:
    """Revoke a token: servers reject it within `governance.key_cache_seconds`."""
    return _view(system.keys.tokens.revoke(caller, person, token))


def _view(token: TokenRecord) -> TokenView:
    return TokenView(
        id=token.id,
        person=token.person,
        scopes=token.scopes,
        key=token.key_id,
        created=to_datetime(token.created_us),
        expires=to_datetime(token.expires_us),
        revoked=to_datetime(token.revoked_us) if token.revoked_us is not None else None,
    )
