"""Who is asking: from the key, or (while no key exists) from being on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from memos_vllm.config.tree import GovernanceConfig
from memos_vllm.errors import Forbidden, Unauthorized, VaultUnavailable
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role
from memos_vllm.governance.secrets import digest
from memos_vllm.vault.keys import KeyRing

LOCAL = Principal(LOCAL_TENANT, Role.ADMIN, "local")
_CACHED_KEYS = 10_000


class Authenticator:
    """Keys to principals, with a short memory so that the vault is not asked for every request."""

    def __init__(
        self, config: GovernanceConfig, keys: KeyRing, engine_keys: Sequence[str] = ()
    ) -> None:
        """Args: `engine_keys`: vLLM's own `--api-key`s, each an admin of the tenant `local`."""
        self._config = config
        self._keys = keys
        self._engine_keys = tuple(engine_keys)
        self._lock = threading.Lock()
        self._cache: dict[str, tuple[float, Principal]] = {}
        self._any: tuple[float, bool] | None = None

    def cached(self, key: str) -> Principal | None:
        """The principal of a key that was checked a moment ago; never asks the vault."""
        with self._lock:
            found = self._cache.get(digest(key))
        if found and time.monotonic() - found[0] < self._config.key_cache_seconds:
            return found[1]
        return None

    def authenticate(self, key: str) -> Principal:
        """Blocking. While the vault does not answer, keys that it knew a while ago still work.

        Raises:
            Unauthorized: not a valid key.
            VaultUnavailable: the vault does not answer and the key is not remembered.
        """
        name = digest(key)
        if any(hmac.compare_digest(key.encode(), own.encode()) for own in self._engine_keys):
            return LOCAL
        try:
            principal = self._keys.authenticate(key)
        except VaultUnavailable:
            with self._lock:
                found = self._cache.get(name)
            if found and time.monotonic() - found[0] < self._config.key_stale_seconds:
                return found[1]
            raise
        except Unauthorized:
            with self._lock:
                self._cache.pop(name, None)
            raise
        with self._lock:
            if len(self._cache) >= _CACHED_KEYS:
                self._cache.clear()
            self._cache[name] = (time.monotonic(), principal)
        return principal

    def keys_are_on(self) -> bool:
        """Blocking on the first call and every `key_cache_seconds` until a key exists; then free."""
        if self._engine_keys or (self._any and self._any[1]):
            return True
        if self._any and time.monotonic() - self._any[0] < self._config.key_cache_seconds:
            return False
        on = self._keys.any()
        self._any = (time.monotonic(), on)
        return on

    def keys_known_on(self) -> bool | None:
        """Like `keys_are_on`, or None where that would have to ask the vault."""
        if self._engine_keys or (self._any and self._any[1]):
            return True
        if self._any and time.monotonic() - self._any[0] < self._config.key_cache_seconds:
            return False
        return None


def bearer(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer …`, or of `x-api-key` (Anthropic's clients)."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key") or None


def local_principal(peer: str | None, headers: Mapping[str, str]) -> Principal:
    """The tenant `local`, for a peer on this machine.

    A browser on this machine carries other sites' requests here, so a foreign `Origin` or a `Host`
    that is not loopback (DNS rebinding) is refused.
    """
    if peer is not None and not is_loopback(peer):
        raise Forbidden(
            "no API key exists, so this server answers its own machine only; "
            "`memos keys create --tenant NAME` makes one"
        )
    origin = headers.get("origin")
    if origin and not is_loopback(urlsplit(origin).hostname or ""):
        raise Forbidden("a page of another site may not use this server while it has no API keys")
    host = headers.get("host")
    if host and peer is not None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        raise Forbidden(
            "while it has no API keys this server is addressed as localhost or 127.0.0.1"
        )
    return LOCAL


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own. Other names than `localhost` may lead anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
