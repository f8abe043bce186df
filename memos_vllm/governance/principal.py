"""Principal of a request: tenant and role from the key, person and session named by its tenant."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from enum import StrEnum

from memos_vllm.cube.ids import SHARED, PersonId, TenantId
from memos_vllm.errors import BadRequest, Forbidden

LOCAL_TENANT = TenantId("local")
MAX_NAME_LENGTH = 256  # characters, of a person or a session
EVERY_PERSONA = "*"
_PERSONA_TAG = "persona:"
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, 2.3


class Role(StrEnum):
    READER = "reader"
    """Chats and reads; its turns are not remembered."""
    WRITER = "writer"
    """Also writes the memory of its person."""
    ADMIN = "admin"
    """Also writes the tenant's shared memory and reads its audit log."""


class Scope(StrEnum):
    """What a person token, or a key with a list of scopes, may do."""

    CHAT = "chat"
    """Inference; the prompts hold the person's memory."""
    READ = "memory.read"
    WRITE = "memory.write"
    """Also needed for a chat's turns to be remembered."""
    DELETE = "memory.delete"
    SHARE = "memory.share"
    """Change grants on the cubes of the person, or that the person may share."""
    METRICS = "metrics"
    """`GET /metrics`, for a key of the operator's tenant; no token has it."""


PERSONAL = frozenset(Scope) - {Scope.METRICS}
"""Scopes that a person's token or identity can have."""


_RANK = {Role.READER: 0, Role.WRITER: 1, Role.ADMIN: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    tenant: TenantId
    role: Role
    key_id: str
    person: PersonId = SHARED
    session: str | None = None
    persona: str | None = None
    """Role that the person acts in (`work`, `parent`), with memory of its own beside the rest."""
    scopes: frozenset[Scope] | None = None
    """None: every scope."""
    token_id: str = ""
    """Of a person token: the principal is bound to its person. Empty: a key."""
    request_id: str = dataclasses.field(default="", compare=False)
    """Of the HTTP request, for the audit log."""
    expires_us: int | None = dataclasses.field(default=None, compare=False)
    """End of the key or token."""
    is_sweep: bool = False
    """The server's own sweep, for an owner; no key or token is."""
    epoch: int | None = dataclasses.field(default=None, compare=False)
    """Number of the last erasure when this work began; None: it begins with its transaction."""

    def as_person(self, person: str | None, session: str | None = None) -> Principal:
        """The same key for one person, or one session, of its tenant.

        Raises:
            BadRequest: a name is too long or not printable.
            Forbidden: a person token, and the name is not its person's.
        """
        if self.token_id and person and check_person(person) != self.person:
            raise Forbidden("a person token is for one person: it cannot name another one")
        return dataclasses.replace(
            self,
            person=PersonId(check_person(person)) if person else self.person,
            session=check_session(session) if session else self.session,
        )

    def in_persona(self, persona: str | None) -> Principal:
        """The same principal in a persona.

        Args:
            persona: None: none; EVERY_PERSONA: all of a person's memory.
        """
        return dataclasses.replace(self, persona=persona)

    def require(self, role: Role) -> None:
        """Raise Forbidden where the key's role is lower."""
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"this needs a key with the role `{role}`; this key has `{self.role}`")

    def require_scope(self, scope: Scope) -> None:
        """Raise Forbidden where the token, or the key, lacks a scope."""
        if not self.has_scope(scope):
            raise Forbidden(f"this needs the scope `{scope}`, which the token or key lacks")

    def has_scope(self, scope: Scope) -> bool:
        return self.scopes is None or scope in self.scopes

    def can(self, role: Role) -> bool:
        return _RANK[self.role] >= _RANK[role]

    @property
    def author(self) -> str:
        return self.person or f"key:{self.key_id}"


def persona_tag(persona: str | None) -> list[str]:
    """Tags of a cube that belongs to one persona; empty without a persona."""
    return [_PERSONA_TAG + persona] if persona else []


def persona_of(tags: Iterable[str]) -> str | None:
    """The persona that a cube with these tags belongs to; None: all of them."""
    return next(
        (tag.removeprefix(_PERSONA_TAG) for tag in tags if tag.startswith(_PERSONA_TAG)), None
    )


def check_person(person: str) -> str:
    """The canonical form of a person's name: 1 to 256 printable characters.

    Percent escapes of characters that URLs reserve, and of bytes beyond ASCII, are decoded, so that a name
    is the same in a header, a path and a body. Letters, digits and `-._~`, which nothing encodes, are not.

    Raises:
        BadRequest: the name is empty, too long or not printable.
    """
    person = decoded(person)
    if not person or len(person) > MAX_NAME_LENGTH or not person.isprintable():
        raise BadRequest(
            f"a person's name has 1 to {MAX_NAME_LENGTH} printable characters", param="user"
        )
    return person


def decoded(name: str) -> str:
    """A name without percent escapes; decoding the result changes nothing more."""
    while (plain := _ESCAPES.sub(_plain, name)) != name:
        name = plain
    return name


def _plain(escapes: re.Match[str]) -> str:
    """The text of a run of escapes, which stays as it is where it is no UTF-8 or encodes plain letters."""
    try:
        text = bytes.fromhex(escapes[0].replace("%", "")).decode("utf-8")
    except UnicodeDecodeError:
        return escapes[0]
    return escapes[0] if _UNRESERVED.search(text) else text


def check_session(session: str) -> str:
    """Validate a session's name: at most 256 printable characters. Raises BadRequest."""
    if len(session) > MAX_NAME_LENGTH or not session.isprintable():
        raise BadRequest(
            f"a session's name has 1 to {MAX_NAME_LENGTH} printable characters",
            param="session_id",
        )
    return session
