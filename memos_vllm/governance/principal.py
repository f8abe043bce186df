"""Who is asking. Made from the key alone, plus the person that the key's tenant names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import StrEnum

from memos_vllm.cube.ids import SHARED, PersonId, TenantId
from memos_vllm.errors import BadRequest, Forbidden

LOCAL_TENANT = TenantId("local")
MAX_NAME_LENGTH = 256  # of a session's name, too
EVERY_PERSONA = "*"
_PERSONA_TAG = "persona:"


class Role(StrEnum):
    READER = "reader"
    """Chats and reads; nothing that it says is remembered."""
    WRITER = "writer"
    """Also writes its person's memory."""
    ADMIN = "admin"
    """Also writes the tenant's shared memory and reads its audit log."""


_RANK = {Role.READER: 0, Role.WRITER: 1, Role.ADMIN: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    tenant: TenantId
    role: Role
    key_id: str
    person: PersonId = SHARED
    session: str | None = None
    persona: str | None = None
    """A role that the person acts in (`work`, `parent`): it has memory of its own beside the rest."""

    def as_person(self, person: str | None, session: str | None = None) -> Principal:
        """The same key, asking for one person inside its tenant."""
        return dataclasses.replace(
            self,
            person=PersonId(check_person(person)) if person else self.person,
            session=check_session(session) if session else self.session,
        )

    def in_persona(self, persona: str | None) -> Principal:
        """Args: persona: None: in none; EVERY_PERSONA: for what concerns all of a person's memory."""
        return dataclasses.replace(self, persona=persona)

    def require(self, role: Role) -> None:
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"this needs a key with the role `{role}`; this key has `{self.role}`")

    def can(self, role: Role) -> bool:
        return _RANK[self.role] >= _RANK[role]

    @property
    def author(self) -> str:
        return self.person or f"key:{self.key_id}"


def persona_tag(persona: str | None) -> list[str]:
    """The tags of a cube that is a persona's own; none for everybody's."""
    return [_PERSONA_TAG + persona] if persona else []


def persona_of(tags: Iterable[str]) -> str | None:
    """Whose persona's own a cube with these tags is; None: it is there whatever the persona."""
    return next(
        (tag.removeprefix(_PERSONA_TAG) for tag in tags if tag.startswith(_PERSONA_TAG)), None
    )


def check_person(person: str) -> str:
    """A person's name as a client gives it: 1 to 256 printable characters."""
    if not person or len(person) > MAX_NAME_LENGTH or not person.isprintable():
        raise BadRequest(
            f"a person is named by 1 to {MAX_NAME_LENGTH} printable characters", param="user"
        )
    return person


def check_session(session: str) -> str:
    """A session's name as a client gives it: 1 to 256 printable characters."""
    if len(session) > MAX_NAME_LENGTH or not session.isprintable():
        raise BadRequest(
            f"a session is named by 1 to {MAX_NAME_LENGTH} printable characters",
            param="session_id",
        )
    return session
