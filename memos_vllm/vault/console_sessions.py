"""Sessions of the console: begin, read, end.

A session lives in its sealed cookie.  The vault holds the ids of those that were ended before their time, until
then, so that a copied cookie ends with the session, on every server of the database.
"""

from __future__ import annotations

from sqlalchemy import delete

from memos_vllm.config.secrets import PERSON_TOKENS
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Unauthorized
from memos_vllm.governance import sessions
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.sessions import Session
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.secret_ring import SecretRing
from memos_vllm.vault.tables import SettingRow
from memos_vllm.vault.upsert import insert_absent

_ENDED = "console_ended:"
_NAMED = 16  # characters of a session's id in the audit log


class ConsoleSessions:
    def __init__(self, database: Database, ring: SecretRing) -> None:
        self._database, self._ring = database, ring

    def begin(self, principal: Principal, credential: str, seconds: int) -> tuple[Session, str]:
        """A new session and its cookie. It ends with its key or token at the latest.

        Args:
            principal: of the credential.

        Raises:
            BadRequest: the credential is too long for a cookie.
        """
        ends = now_us() + seconds * 1_000_000
        if principal.expires_us is not None:
            ends = min(ends, principal.expires_us)
        session = Session(sessions.new_id(), credential, ends)
        cookie = sessions.seal(self._secrets[0], session)
        self._note(principal, "console.sign_in", session)
        return session, cookie

    def read(self, cookie: str) -> Session:
        """Raises Unauthorized: forged, over, or ended."""
        session = sessions.opened(self._secrets, cookie, now_us())
        with self._database.read() as reading:
            if reading.get(SettingRow, _ENDED + session.id) is not None:
                raise Unauthorized("the session has ended: sign in again")
        return session

    def end(self, principal: Principal, session: Session) -> None:
        """End a session before its time."""
        with self._database.write() as writing:
            now = f"{now_us():020d}"
            writing.execute(
                delete(SettingRow).where(
                    SettingRow.key.startswith(_ENDED, autoescape=True), SettingRow.value < now
                )
            )
            until = f"{session.expires_us:020d}"
            insert_absent(writing, SettingRow, key=_ENDED + session.id, value=until)
        self._note(principal, "console.sign_out", session)

    def form_token(self, name: str) -> str:
        """Token of a form against CSRF.

        Args:
            name: id of the session, or the random name of a visitor who signs in.
        """
        return sessions.form_token(self._secrets[0], name)

    def is_form_token(self, name: str, token: str) -> bool:
        return sessions.is_form_token(self._secrets, name, token)

    @property
    def _secrets(self) -> tuple[bytes, ...]:
        return self._ring.all(PERSON_TOKENS)

    def _note(self, principal: Principal, action: str, session: Session) -> None:
        with self._database.write() as writing:
            audit.record(writing, principal, action, session.id[:_NAMED], {})
