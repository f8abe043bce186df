"""A small client of the Memory API for one person: requests, pages and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from memos_vllm import errors
from memos_vllm.cube.model import MemCube
from memos_vllm.errors import BadRequest, MemosError, NotFound, Unavailable
from memos_vllm.governance.tokens import PREFIX

_PAGE = 200
_BY_STATUS: dict[int, type[MemosError]] = {
    kind.status: kind
    for kind in (
        errors.BadRequest,
        errors.Unauthorized,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.TooLarge,
        errors.Unprocessable,
        errors.NotBuilt,
        errors.Unavailable,
    )
}


class MemoryClient:
    """One person's memory on a server; safe to use from several threads."""

    def __init__(
        self,
        base_url: str,
        key: str,
        person: str | None = None,
        *,
        timeout_seconds: float = 30.0,
    ) -> None:
        """
        Args:
            base_url: of the server, without `/v1`.
            key: a tenant's key, or a person's token (`pt-memos-…`), which names the person itself.
            person: whose memory it is; None: a token's own.
        Raises:
            BadRequest: a tenant's key without a person, whose writes would go to memory that the tenant shares.
        """
        if not person and not key.startswith(PREFIX):
            raise BadRequest("name the person whose memory it is: `person`", param="person")
        self.person = person
        headers = {"Authorization": f"Bearer {key}"}
        if person:
            headers["X-Memos-User"] = quote(person, safe="")
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"), headers=headers, timeout=timeout_seconds
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        if_match: str | None = None,
    ) -> Any:
        """The JSON of a reply.

        Args:
            path: below `/v1/memory`.
            if_match: version that the caller saw.
        Raises:
            MemosError: of the class that the server's status names; Unavailable also where the server is not
                reached.
        """
        headers = {"If-Match": f'"{if_match}"'} if if_match is not None else None
        try:
            reply = self._http.request(
                method, f"/v1/memory{path}", json=body, params=params, headers=headers
            )
        except httpx.HTTPError as error:
            raise Unavailable(f"the memory server does not answer: {error}") from error
        if reply.is_success:
            return reply.json()
        raise _error(reply)

    def cube(self, ref: str) -> MemCube | None:
        """A cube by id or name; None: there is none that this person may read."""
        try:
            return MemCube.model_validate(self.request("GET", f"/cubes/{quote(ref, safe='')}"))
        except NotFound:
            return None

    def create(self, meta: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> MemCube:
        """Raises Conflict: the person has a cube of that name."""
        body = {"meta": dict(meta), "payload": payload(items)}
        return MemCube.model_validate(self.request("POST", "/cubes", body=body))

    def change(self, ref: str, patch: Mapping[str, Any], if_match: str | None = None) -> MemCube:
        """Raises NotFound, Conflict."""
        path = f"/cubes/{quote(ref, safe='')}"
        return MemCube.model_validate(
            self.request("PATCH", path, body=dict(patch), if_match=if_match)
        )

    def delete(self, ref: str, if_match: str | None = None) -> None:
        """Raises NotFound, Conflict."""
        self.request("DELETE", f"/cubes/{quote(ref, safe='')}", if_match=if_match)

    def headers(self, **where: str) -> Iterator[dict[str, Any]]:
        """Headers of the person's own cubes, newest first.

        Args:
            where: further filters of `GET /v1/memory/cubes`.
        """
        where["shared"] = "false"
        if self.person is not None:
            where["person"] = self.person  # an admin's key reads other people's, too
        cursor: str | None = None
        while True:
            params = {**where, "limit": _PAGE} | ({"cursor": cursor} if cursor else {})
            page = self.request("GET", "/cubes", params=params)
            yield from page["cubes"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def search(
        self, query: str, top_k: int, filters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Hits of `POST /v1/memory/search`, best first."""
        body = {"query": query, "top_k": top_k, "filters": filters}
        found: list[dict[str, Any]] = self.request("POST", "/search", body=body)["results"]
        return found


def payload(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "explicit", "format": "text", "content": [dict(item) for item in items]}


def _error(reply: httpx.Response) -> MemosError:
    kind = _BY_STATUS.get(reply.status_code, MemosError)
    try:
        body = reply.json()["error"]
        message, param = str(body["message"]), body.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = f"status {reply.status_code} without an error message", None
    return kind(message, param=param)
