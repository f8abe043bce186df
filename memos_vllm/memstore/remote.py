"""A registry by URL, through oras: its sign-in (also that of `docker login`), our reading and limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import oras.utils
import requests
from oras.auth import AuthenticationException
from oras.container import Container
from oras.provider import Registry as OrasRegistry
from requests.adapters import HTTPAdapter

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, NotFound, Unprocessable
from memos_vllm.memstore.model import MANIFEST, MANIFEST_BYTES, digest_of
from memos_vllm.memstore.registry import RegistryUnavailable, _is_name

_SECONDS = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""
_CHUNK = 1 << 20
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
        url = urlsplit(location)
        if not url.hostname or url.username or url.query or url.fragment:
            raise BadRequest(
                f"{location!r} is no registry: https://HOST[:PORT][/PATH], without user, query or fragment"
            )
        if url.scheme == "http" and not insecure and not _is_loopback(url.hostname):
            raise BadRequest(f"{location!r}: plain HTTP to another machine needs `insecure`")
        self._host, self._path = url.netloc, url.path.strip("/")
        self._oras = OrasRegistry(self._host, insecure=url.scheme == "http")
        for scheme in ("http://", "https://"):
            self._oras.session.mount(scheme, _Timed())

    def names(self) -> list[str]:
        prefix = f"{self._path}/" if self._path else ""
        found: list[str] = []
        last = ""
        for _ in range(_MOST_PAGES):
            query = f"?n={_PAGE}" + (f"&last={last}" if last else "")
            data = self._read(self._get(self._url("_catalog" + query, "")), _CATALOGUE_BYTES)
            listed = self._json(data).get("repositories") or []
            found += [str(each) for each in listed]
            if len(listed) < _PAGE:
                break
            last = str(listed[-1])
        under = [each.removeprefix(prefix) for each in found if each.startswith(prefix)]
        return sorted(name for name in under if _is_name(name))

    def manifest(self, name: str, tag: str) -> bytes:
        return self._read(self._get(self._url(f"manifests/{tag}", name), MANIFEST), MANIFEST_BYTES)

    def stream(self, name: str, digest: str) -> Iterator[bytes]:
        called = digest.removeprefix("manifest:")
        what = f"blobs/{digest}" if called == digest else f"manifests/{called}"
        response = self._get(self._url(what, name), MANIFEST if "manifests" in what else None)
        try:
            with response:
                yield from response.iter_content(_CHUNK)
        except requests.RequestException as error:
            raise RegistryUnavailable(f"{self._host} breaks off: {_reason(error)}") from error

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
        where = oras.utils.append_url_params(place, {"digest": digest_of(data)})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
        self._check(self._ask("PUT", where, data=data, headers=headers), name)

    def put_manifest(self, name: str, tag: str, data: bytes) -> None:
        headers = {"Content-Type": MANIFEST}
        answer = self._ask("PUT", self._url(f"manifests/{tag}", name), data=data, headers=headers)
        self._check(answer, name)

    # -- inside -----------------------------------------------------------------------------------

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
            # Without oras's repetitions, which sleep for minutes when a registry is down.
            ask = OrasRegistry.do_request.__wrapped__
            answer: requests.Response = ask(self._oras, url, method, **how)
            return answer
        except AuthenticationException as error:
            raise RegistryUnavailable(f"{self._host} refuses the sign-in: {error}") from error
        except requests.RequestException as error:
            raise RegistryUnavailable(f"{self._host} does not answer: {_reason(error)}") from error
        except ValueError as error:  # oras: no way to sign in
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
        parts, size = [], 0
        try:
            with answer:
                for chunk in answer.iter_content(1 << 16):
                    size += len(chunk)
                    if size > most:
                        raise Unprocessable(f"{self._host} sends more than {most} bytes")
                    parts.append(chunk)
        except requests.RequestException as error:
            raise RegistryUnavailable(f"{self._host} breaks off: {_reason(error)}") from error
        return b"".join(parts)

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            value = strict_json.parse(data, what=self._host, most_bytes=_CATALOGUE_BYTES)
        except BadRequest as error:
            raise Unprocessable(error.message) from error
        return value if isinstance(value, dict) else {}


class _Timed(HTTPAdapter):
    def send(self, request: Any, **how: Any) -> requests.Response:  # type: ignore[override]
        how["timeout"] = how.get("timeout") or _SECONDS
        return super().send(request, **how)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
