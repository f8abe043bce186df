"""Keys of an OIDC issuer: fetched, cached, and used on while the issuer does not answer.

An unknown key id causes one fetch at most every `jwks_retry_seconds`, so that forged tokens cannot make this
server call the issuer as often as they are sent.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from time import monotonic
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from memos_vllm import strict_json
from memos_vllm.config.oidc import OidcIssuer, is_secure
from memos_vllm.errors import BadRequest, IdentityUnavailable, TooLarge

log = logging.getLogger(__name__)
_MOST_BYTES, _MOST_KEYS = 1 << 20, 100
_TIMEOUT_SECONDS = 5.0
_LEAST_RSA_BITS = 2048


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerKey:
    key: Any
    """Public key of `cryptography`."""
    algorithm: str | None
    """The only one that the issuer uses it for; None: any that fits."""


class Jwks:
    """Keys of one issuer by key id. Thread-safe; blocks while it fetches."""

    def __init__(self, config: OidcIssuer) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._keys: dict[str, IssuerKey] = {}
        self._fetched = self._tried = float("-inf")

    def find(self, kid: str | None) -> IssuerKey | None:
        """The key of an id; None: the issuer has none.

        Args:
            kid: None: the issuer's only key.
        Raises:
            IdentityUnavailable: the issuer does not answer, and keys of it are absent or too old.
        """
        age = monotonic() - self._fetched
        found = self._chosen(kid)
        if found is None or age > self._config.jwks_seconds:
            self._refresh(wait=found is None or age > self._config.jwks_stale_seconds)
            found = self._chosen(kid)
        if monotonic() - self._fetched > self._config.jwks_stale_seconds:
            raise IdentityUnavailable(f"the keys of {self._config.issuer} cannot be fetched")
        return found

    def fetch(self) -> dict[str, IssuerKey]:
        """The issuer's keys, from its server.

        Raises:
            IdentityUnavailable
        """
        url = self._config.jwks_url or self._discovered()
        entries = self._get(url).get("keys")
        if not isinstance(entries, list):
            raise IdentityUnavailable(f"{url} has no keys")
        found: dict[str, IssuerKey] = {}
        for entry in entries[:_MOST_KEYS]:
            if isinstance(entry, dict) and (key := _key_of(entry)) is not None:
                found[str(entry.get("kid", ""))] = key
        return found

    def _chosen(self, kid: str | None) -> IssuerKey | None:
        keys = self._keys
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    def _refresh(self, wait: bool) -> None:
        """Fetch the keys unless that was tried just now; an issuer that fails leaves the old ones."""
        if not self._lock.acquire(blocking=wait):
            return  # another thread fetches, and the old keys count meanwhile
        try:
            if monotonic() - self._tried < self._config.jwks_retry_seconds:
                return
            self._tried = monotonic()
            self._keys = self.fetch()
            self._fetched = self._tried
        except IdentityUnavailable as error:
            log.warning("%s; the keys that are known count on", error)
        finally:
            self._lock.release()

    def _discovered(self) -> str:
        issuer = self._config.issuer
        found = self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
        url = found.get("jwks_uri")
        if found.get("issuer") != issuer or not isinstance(url, str) or not is_secure(url):
            raise IdentityUnavailable(
                f"the discovery document of {issuer} names another issuer or no secure jwks_uri"
            )
        return url

    @staticmethod
    def _get(url: str) -> dict[str, Any]:
        """Raises IdentityUnavailable."""
        body = b""
        ends = monotonic() + _TIMEOUT_SECONDS
        try:
            with httpx.stream(
                "GET",
                url,
                headers={"Accept-Encoding": "identity"},
                timeout=_TIMEOUT_SECONDS,
                follow_redirects=False,
                trust_env=False,
            ) as reply:
                if reply.status_code != 200:
                    raise IdentityUnavailable(f"{url} answers with {reply.status_code}")
                for chunk in reply.iter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES or monotonic() > ends:
                        raise IdentityUnavailable(f"{url} is too long or too slow")
            found = strict_json.parse(body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise IdentityUnavailable(f"{url} does not answer: {type(error).__name__}") from error
        except (BadRequest, TooLarge, ValueError) as error:
            raise IdentityUnavailable(f"{url} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise IdentityUnavailable(f"{url} is no JSON object")
        return found


def _key_of(entry: dict[str, Any]) -> IssuerKey | None:
    """A public key for signatures; None: another kind, or a weak one."""
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    if isinstance(operations, list) and "verify" not in operations:
        return None
    try:
        found = jwt.PyJWK({k: v for k, v in entry.items() if k != "d"})
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        log.warning("a key of an issuer is left out: %s", type(error).__name__)
        return None
    if isinstance(found.key, RSAPublicKey) and found.key.key_size < _LEAST_RSA_BITS:
        log.warning("a key of an issuer is left out: it has fewer than %d bits", _LEAST_RSA_BITS)
        return None
    algorithm = entry.get("alg")
    return IssuerKey(found.key, algorithm if isinstance(algorithm, str) else None)
