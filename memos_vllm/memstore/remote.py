"""A registry by URL, through oras: its sign-in (also that of `docker login`), our reading and limits."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import oras.utils
import requests
from oras.auth import AuthenticationException
from oras.container import Container
from oras.provider import Registry as OrasRegistry
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, NotFound, Unprocessable
from memos_vllm.memstore.model import MANIFEST, MANIFEST_BYTES, digest_of
from memos_vllm.memstore.registry import RegistryUnavailable, _is_name

log = logging.getLogger(__name__)
_SECONDS = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""
_PATIENCE_SECONDS, _LEAST_PACE = 20.0, 64 << 10
"""So long an answer may come slower than so many bytes a second."""
_CHUNK = 1 << 20
_ANSWER_BYTES = 1 << 20
"""Of an answer that is no part of a bundle: to a sign-in, an upload, a redirection."""
_CATALOGUE_BYTES = 16 << 20
_PAGE = 1000
_MOST_PAGES = 100


class RemoteRegistry:
    """An OCI registry (distribution specification 1.1). A bundle `name` is the repository PATH/name."""

    def __init__(self, location: str, *, insecure: bool = False) -> None:
        """
        Args:
            location: https://HOST[:PORT][/PATH]; http:// to this machine, or with `insecure`.
        Raises:
            BadRequest: another URL, or one with a password or a query.
        """
        try:
            url = urlsplit(location)
            shown = f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")
        except ValueError as error:
            raise BadRequest(f"the address of a registry is no URL: {error}") from error
        if not url.hostname or "@" in url.netloc or url.query or url.fragment:
            raise BadRequest(  # without the rest, where a password may stand
                f"{shown}… is no registry: https://HOST[:PORT][/PATH], without user, query or fragment"
            )
        if url.scheme == "http" and not insecure and not _is_loopback(url.hostname):
            raise BadRequest(f"{shown}: plain HTTP to another machine needs `insecure`")
        self._host, self._path = url.netloc, url.path.strip("/")
        self._is_plain = url.scheme == "http"
        self._oras = self._client("token")
        self._is_signed_in = False

    def names(self) -> list[str]:
        prefix = f"{self._path}/" if self._path else ""
        found: set[str] = set()
        query: dict[str, Any] = {"n": _PAGE}
        for _ in range(_MOST_PAGES):
            url = self._url(f"_catalog?{urlencode(query)}", "")
            listed = self._json(self._read(self._get(url), _CATALOGUE_BYTES)).get("repositories")
            page = [str(each) for each in listed] if isinstance(listed, list) else []
            if found.issuperset(page):
                break
            found.update(page)
            if len(page) < _PAGE:
                break
            query["last"] = page[-1]
        under = [each.removeprefix(prefix) for each in found if each.startswith(prefix)]
        return sorted(name for name in under if _is_name(name))

    def manifest(self, name: str, tag: str) -> bytes:
        return self._read(self._get(self._url(f"manifests/{tag}", name), MANIFEST), MANIFEST_BYTES)

    def stream(self, name: str, digest: str) -> Iterator[bytes]:
        called = digest.removeprefix("manifest:")
        what = f"blobs/{digest}" if called == digest else f"manifests/{called}"
        response = self._get(self._url(what, name), MANIFEST if "manifests" in what else None)
        yield from _pieces(response, self._host)

    def has_blob(self, name: str, digest: str) -> bool:
        answer = self._ask("HEAD", self._url(f"blobs/{digest}", name))
        return answer.status_code == 200

    def put_blob(self, name: str, data: bytes) -> None:
        if self.has_blob(name, digest_of(data)):
            return
        container = Container(self._repository(name), self._host)
        begun = self._ask("POST", f"{self._oras.prefix}://{container.upload_blob_url()}")
        self._check(begun, name)
        place = self._oras._get_location(begun, container)
        if urlsplit(place)[:2] != urlsplit(self._url("", name))[:2]:
            raise RegistryUnavailable(
                f"{self._host} wants the upload at another address, which would get the sign-in: {place[:200]}"
            )
        where = oras.utils.append_url_params(place, {"digest": digest_of(data)})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        self._check(self._ask("PUT", where, data=data, headers=headers), name)

    def put_manifest(self, name: str, tag: str, data: bytes) -> None:
        headers = {"Content-Type": MANIFEST}
        answer = self._ask("PUT", self._url(f"manifests/{tag}", name), data=data, headers=headers)
        self._check(answer, name)

    # -- inside -----------------------------------------------------------------------------------

    def _client(self, backend: str) -> OrasRegistry:
        client = OrasRegistry(self._host, insecure=self._is_plain, auth_backend=backend)
        for scheme in ("http://", "https://"):
            client.session.mount(scheme, _Bounded(self._host))
        return client

    def _sign_in(self) -> None:
        """Take the credentials of `docker login`, in the form that the registry asks for."""
        self._is_signed_in = True
        answer = self._oras.session.get(f"{self._oras.prefix}://{self._host}/v2/")
        if answer.headers.get("Www-Authenticate", "").lower().startswith("basic"):
            self._oras = self._client("basic")
        self._oras.auth.load_configs(Container(self._repository("any"), self._host))
        if answer.status_code == 401 and not hasattr(self._oras.auth, "_basic_auth"):
            log.info("no credentials for %s: it is asked without", self._host)

    def _repository(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name

    def _url(self, what: str, name: str) -> str:
        middle = f"{self._repository(name)}/" if name else ""
        return f"{self._oras.prefix}://{self._host}/v2/{middle}{what}"

    def _get(self, url: str, accept: str | None = None) -> requests.Response:
        answer = self._ask("GET", url, headers={"Accept": accept} if accept else {}, stream=True)
        self._check(answer, urlsplit(url).path.removeprefix("/v2/"))
        return answer

    def _ask(self, method: str, url: str, **how: Any) -> requests.Response:
        try:
            if not self._is_signed_in:
                self._sign_in()
            # Without oras's repetitions, which sleep for minutes when a registry is down.
            ask = OrasRegistry.do_request.__wrapped__
            answer: requests.Response = ask(self._oras, url, method, **how)
            return answer
        except AuthenticationException as error:
            raise RegistryUnavailable(f"{self._host} refuses the sign-in: {error}") from error
        except requests.RequestException as error:
            raise RegistryUnavailable(f"{self._host} does not answer: {_reason(error)}") from error
        except (
            ValueError,
            AttributeError,
            KeyError,
            TypeError,
        ) as error:  # oras has no credentials, or no way to use them
            raise RegistryUnavailable(
                f"{self._host} asks for a sign-in: `docker login {self._host}`, or oras's environment variables "
                f"({error})"
            ) from error

    def _check(self, answer: requests.Response, what: str) -> None:
        if answer.ok:
            return
        answer.close()
        if answer.status_code == 404:
            raise NotFound(f"{self._host} has no {what}", param="name")
        raise RegistryUnavailable(f"{self._host} answers {answer.status_code} for {what}")

    def _read(self, answer: requests.Response, most: int) -> bytes:
        return _all(answer, self._host, most)

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            value = strict_json.parse(data, what=self._host, most_bytes=_CATALOGUE_BYTES)
        except BadRequest as error:
            raise Unprocessable(error.message) from error
        return value if isinstance(value, dict) else {}


class _Bounded(HTTPAdapter):
    """Requests to one registry: with an end, answers of a bounded size, and a sign-in for its host alone."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host.lower()

    def send(self, request: Any, **how: Any) -> requests.Response:  # type: ignore[override]
        how["timeout"] = how.get("timeout") or _SECONDS
        request.headers["Accept-Encoding"] = "identity"
        answer = super().send(request, **how)
        if urlsplit(request.url).netloc.lower() != self._host:
            # A host that the registry redirects to asks for no password of the registry's.
            answer.headers.pop("Www-Authenticate", None)
        if answer.is_redirect or not how.get("stream"):
            # requests would read these whole, whatever their size.
            answer._content = _all(answer, self._host, _ANSWER_BYTES)
            answer._content_consumed = True
        return answer


def _all(answer: requests.Response, host: str, most: int) -> bytes:
    """The bytes of an answer. Raises Unprocessable: more than `most`; RegistryUnavailable."""
    parts, size = [], 0
    for piece in _pieces(answer, host):
        if (size := size + len(piece)) > most:
            raise Unprocessable(f"{host} sends more than {most} bytes")
        parts.append(piece)
    return b"".join(parts)


def _pieces(answer: requests.Response, host: str) -> Iterator[bytes]:
    """The bytes of an answer as they were sent, each as it arrives: a wait for more may never end.

    Raises:
        RegistryUnavailable: it breaks off, or is slower than `_LEAST_PACE`.
    """
    size, end = 0, time.monotonic() + _PATIENCE_SECONDS
    try:
        with answer:
            while piece := answer.raw.read1(_CHUNK, decode_content=False):
                yield piece
                size += len(piece)
                if time.monotonic() > end + size / _LEAST_PACE:
                    raise RegistryUnavailable(f"{host} sends too slowly")
    except (requests.RequestException, HTTPError, OSError) as error:
        raise RegistryUnavailable(f"{host} breaks off: {_reason(error)}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
