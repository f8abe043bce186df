"""Keys of the audit log, from a secret that the database does not hold.

The file has one secret a line (64 hex digits), the newest last: a new line rotates the key, and the
older ones keep verifying what they signed.  Of each secret a MAC key and an Ed25519 key are derived
(HKDF-SHA256); a key's id is a digest of its Ed25519 public key, so that an auditor who has the public
key knows the id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memos_vllm import metrics
from memos_vllm.config.tree import Config
from memos_vllm.errors import ConfigError
from memos_vllm.governance.secret_sources import read_secrets

log = logging.getLogger(__name__)
_BYTES = 32


@dataclasses.dataclass(frozen=True)
class AuditKey:
    id: str
    mac_key: bytes = dataclasses.field(repr=False)
    signing: Ed25519PrivateKey = dataclasses.field(repr=False)

    @classmethod
    def of_secret(cls, secret: bytes) -> AuditKey:
        signing = Ed25519PrivateKey.from_private_bytes(_derived(secret, b"memos-audit-sign-1"))
        raw = _raw(signing.public_key())
        return cls(key_id(raw), _derived(secret, b"memos-audit-mac-1"), signing)

    @property
    def public(self) -> str:
        """64 hex digits."""
        return _raw(self.signing.public_key()).hex()

    def mac(self, message: bytes) -> str:
        return hmac.new(self.mac_key, message, hashlib.sha256).hexdigest()

    def sign(self, message: bytes) -> str:
        return self.signing.sign(message).hex()


class AuditKeys:
    """All keys of an installation. The file is read again when it changes."""

    def __init__(
        self,
        path: Path | None = None,
        source: str | None = None,
        token_source: str | None = None,
        refresh_seconds: float = 60.0,
    ) -> None:
        """Initialize from a file, which is made on first use where it is absent; None: one key, of this process.

        Args:
            source: of the secrets, in place of the file (`secret_sources`).
            token_source: of the bearer token for an `https:` source.
            refresh_seconds: how often the source is read again.

        Raises:
            ConfigError: a secret is malformed, or the file cannot be read.
        """
        self._path = None if source is not None else path
        self._source, self._token_source = source, token_source
        self._refresh_seconds, self._read_at = refresh_seconds, -math.inf
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._keys: dict[str, AuditKey] = {}
        if source is not None:
            self.reload()
        elif path is None:
            self._set([secrets.token_hex(_BYTES)])
        elif path.exists():
            self.reload()

    @property
    def current(self) -> AuditKey:
        """The newest key. Raises ConfigError: the file cannot be made."""
        self._load()
        return next(reversed(self._keys.values()))

    def find(self, identifier: str) -> AuditKey | None:
        self._load()
        return self._keys.get(identifier)

    def rotate(self) -> str:
        """Add a new secret to the file; returns the new key's id. Raises ConfigError."""
        if self._source is not None:
            raise ConfigError("`governance.secrets.audit` names a source: add a new secret there")
        if self._path is None:
            raise ConfigError(
                "keys of one process are not rotated: set `governance.audit.key_file`"
            )
        self._load()
        secret = secrets.token_hex(_BYTES)
        _append(self._path, secret)
        self.reload()
        return AuditKey.of_secret(bytes.fromhex(secret)).id

    def publics(self) -> dict[str, str]:
        """Public keys by id, oldest first."""
        self._load()
        return {key.id: key.public for key in self._keys.values()}

    def _load(self) -> None:
        if self._keys or self._path is None:
            return
        if not self._path.exists():
            _make(self._path)
        self.reload()

    def reload(self) -> bool:
        """Read the file, or the source, again where it has changed. Raises ConfigError."""
        if self._source is not None:
            return self._reread(self._source)
        if self._path is None or not (self._keys or self._path.exists()):
            return False
        with self._lock:
            try:
                found = self._path.stat()
                seen = (found.st_mtime_ns, found.st_size)
                if seen == self._seen:
                    return False
                lines = self._path.read_text("ascii").split()
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read the audit keys {self._path}: {error}") from error
            self._set(lines)
            self._seen = seen
            return True

    def _reread(self, source: str) -> bool:
        """Read the source again when it is time; one that is away changes nothing, once it has answered."""
        with self._lock:
            if time.monotonic() - self._read_at < self._refresh_seconds:
                return False
            before = list(self._keys)
            try:
                found = read_secrets(source, self._token_source)
            except ConfigError as error:
                if not before:
                    raise
                metrics.SECRET_FAILURES.labels("audit").inc()
                log.error("the secrets of the audit log are not read again: %s", error)
            else:
                self._set([each.hex() for each in found])
            self._read_at = time.monotonic()
            return list(self._keys) != before

    def _set(self, lines: Sequence[str]) -> None:
        keys: dict[str, AuditKey] = {}
        for line in lines:
            try:
                secret = bytes.fromhex(line)
            except ValueError:
                secret = b""
            if len(secret) < _BYTES:
                raise ConfigError("an audit key is a secret of at least 64 hex digits, one a line")
            key = AuditKey.of_secret(secret)
            keys[key.id] = key
        if not keys:
            raise ConfigError(f"the file of audit keys {self._path} is empty")
        self._keys = keys


def audit_keys_of(config: Config) -> AuditKeys:
    """As the configuration names them. Raises ConfigError."""
    chosen = config.governance.secrets
    return AuditKeys(config.audit_key_path, chosen.audit, chosen.token, chosen.refresh_seconds)


def key_id(public: bytes) -> str:
    return hashlib.sha256(b"memos-audit-key-id-1" + public).hexdigest()[:16]


def is_signed(publics: Mapping[str, str], key: str, message: bytes, signature: str) -> bool:
    """Whether one of the public keys signed a message."""
    try:
        raw = bytes.fromhex(publics[key])
        if key_id(raw) != key:
            return False
        Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(signature), message)
    except (KeyError, ValueError, InvalidSignature):
        return False
    return True


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length=_BYTES, salt=None, info=purpose).derive(secret)


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _make(path: Path) -> None:
    """Make the file with one secret; of two processes that try, one wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        _append(draft, secrets.token_hex(_BYTES))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot make the file of audit keys {path}: {error.strerror}; set `home` to a folder that "
            "you may write to, or `governance.audit.key_file`"
        ) from error


def _append(path: Path, line: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, f"{line}\n".encode("ascii"))
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise ConfigError(f"cannot write the audit keys {path}: {error}") from error
