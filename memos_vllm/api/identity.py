"""Authentication: the principal of an API key, or of a local peer while no key exists."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from cachetools import LRUCache

from memos_vllm.config.tree import KEY_HEADERS, GovernanceConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Forbidden, Unauthorized, VaultUnavailable
from memos_vllm.governance.oidc import OidcIssuers
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.governance.secrets import digest
from memos_vllm.vault.keys import KeyRing

LOCAL = Principal(LOCAL_TENANT, Role.ADMIN, "local")
_CACHED_KEYS = 10_000


class Authenticator:
    """API keys to principals, with a cache so that most requests do not query the vault."""

    def __init__(
        self, config: GovernanceConfig, keys: KeyRing, engine_keys: Sequence[str] = ()
    ) -> None:
        """Initialize with an empty cache.

        Args:
            engine_keys: vLLM's own `--api-key`s, each an admin of the tenant `local`.
        """
        self._config = config
        self._keys = keys
        self._engine_keys = tuple(engine_keys)
        self._issuers = OidcIssuers(config.oidc)
        self._is_closed = bool(self._engine_keys) or bool(self._issuers)
        """Whether requests need a key, or a token, though the vault has none."""
        self._lock = threading.Lock()
        # Key digest → (time of the check, principal).
        self._cache: LRUCache[str, tuple[float, Principal]] = LRUCache(_CACHED_KEYS)
        self._enabled: tuple[float, bool] | None = None
        """(time of the check, whether a key exists)."""

    def cached(self, key: str) -> Principal | None:
        """The principal of a key checked within `key_cache_seconds`; never queries the vault."""
        with self._lock:
            found = self._cache.get(digest(key))
        if found and time.monotonic() - found[0] < self._config.key_cache_seconds:
            return None if _has_ended(found[1]) else found[1]
        return None

    def authenticate(self, key: str) -> Principal:
        """Check a key; blocks. While the vault is unavailable, cached keys work for `key_stale_seconds`.

        Raises:
            Unauthorized: not a valid key.
            VaultUnavailable: the vault does not answer and the key is not in the cache.
            IdentityUnavailable: the keys of an issuer cannot be fetched.
        """
        name = digest(key)
        if any(hmac.compare_digest(key.encode(), own.encode()) for own in self._engine_keys):
            return LOCAL
        try:
            if self._issuers and self._issuers.is_jwt(key):
                principal = self._issuers.authenticate(key)
            else:
                principal = self._keys.authenticate(key)
        except VaultUnavailable:
            with self._lock:
                found = self._cache.get(name)
            is_recent = found and time.monotonic() - found[0] < self._config.key_stale_seconds
            if found and is_recent and not _has_ended(found[1]):
                return found[1]
            raise
        except Unauthorized:
            with self._lock:
                self._cache.pop(name, None)
            raise
        with self._lock:
            self._cache[name] = (time.monotonic(), principal)
        return principal

    def keys_enabled(self) -> bool:
        """Whether a key exists. Until one does, queries the vault every `key_cache_seconds`; blocks."""
        if self._is_closed or (self._enabled and self._enabled[1]):
            return True
        if self._enabled and time.monotonic() - self._enabled[0] < self._config.key_cache_seconds:
            return False
        enabled = self._keys.any()
        self._enabled = (time.monotonic(), enabled)
        return enabled

    def keys_enabled_cached(self) -> bool | None:
        """Like `keys_enabled`, or None where that would query the vault."""
        if self._is_closed or (self._enabled and self._enabled[1]):
            return True
        if self._enabled and time.monotonic() - self._enabled[0] < self._config.key_cache_seconds:
            return False
        return None


def _has_ended(principal: Principal) -> bool:
    return principal.expires_us is not None and principal.expires_us <= now_us()


def bearer(headers: Mapping[str, str], names: Sequence[str] = KEY_HEADERS) -> str | None:
    """The key of the first header with one: `Authorization: Bearer …`, `x-api-key` (Anthropic's clients).

    Args:
        names: of the headers, in any case.
    """
    for name in names:
        scheme, _, value = headers.get(name.lower(), "").strip().partition(" ")
        if scheme.lower() == "bearer" and value.strip():
            return value.strip()
        if scheme and not value and name.lower() != "authorization":
            return scheme
    return None


def header_text(headers: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The value of the first header that is sent, as UTF-8 where it is; None: none is.

    Args:
        headers: decoded as Latin-1.
        names: in any case.
    """
    for name in names:
        if value := headers.get(name.lower(), "").strip():
            try:
                return value.encode("latin-1").decode("utf-8")
            except UnicodeError:
                return value
    return None


def local_principal(peer: str | None, headers: Mapping[str, str]) -> Principal:
    """The principal of the tenant `local`, for a peer on this machine.

    Raises:
        Forbidden: the peer is remote, or a browser request comes from another site: a foreign
            `Origin`, or a `Host` that is not loopback (DNS rebinding).
    """
    if peer is not None and not is_loopback(peer):
        raise Forbidden(
            "no API key exists, so this server answers local requests only; create a key with "
            "`memos keys create --tenant NAME`"
        )
    origin = headers.get("origin")
    if origin and not is_loopback(urlsplit(origin).hostname or ""):
        raise Forbidden("while no API key exists, this server rejects requests from other sites")
    host = headers.get("host")
    if host and peer is not None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise Forbidden("while no API key exists, address this server as localhost or 127.0.0.1")
    return LOCAL


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`. Other names may resolve anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
