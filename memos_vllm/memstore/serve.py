"""A folder of bundles as a read-only OCI registry over HTTP, with a page to search it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from memos_vllm.errors import MemosError, NotFound
from memos_vllm.memstore.model import (
    CONFIG_BYTES,
    MANIFEST,
    MANIFEST_BYTES,
    BundleConfig,
    Manifest,
    check_name,
    digest_of,
    parsed,
)
from memos_vllm.memstore.package import read_index
from memos_vllm.memstore.registry import FolderRegistry, blob, manifest

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_LISTED = 1000
_POLICY = "default-src 'none'; form-action 'self'; style-src 'unsafe-inline'"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Bundles of memory</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}
code{{overflow-wrap:anywhere}}</style>
<h1>Bundles of memory</h1>
<form><label>Search <input name="q" value="{query}"></label> <button>Search</button></form>
<ul>{bundles}</ul></html>"""


def create_app(folder: Path) -> Starlette:
    """The registry as an ASGI application: pull of the OCI distribution specification 1.1, and `/`."""
    registry = FolderRegistry(folder)

    async def version(_: Request) -> Response:
        return JSONResponse({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def catalogue(request: Request) -> Response:
        names = await run_in_threadpool(registry.names)
        last = request.query_params.get("last", "")
        count = _number(request.query_params.get("n"))
        page = [name for name in names if name > last][:count]
        return JSONResponse({"repositories": page})

    async def tags(request: Request) -> Response:
        name = check_name(request.path_params["name"])
        found = await run_in_threadpool(registry.tags, name)
        if not found:
            raise NotFound(f"no bundle {name}")
        return JSONResponse({"name": name, "tags": found})

    async def manifests(request: Request) -> Response:
        name, ref = check_name(request.path_params["name"]), request.path_params["ref"]
        read = manifest if _DIGEST.fullmatch(ref) else _by_tag
        data = await run_in_threadpool(read, registry, name, ref)
        return Response(
            data, media_type=MANIFEST, headers={"Docker-Content-Digest": digest_of(data)}
        )

    async def blobs(request: Request) -> Response:
        name, digest = check_name(request.path_params["name"]), request.path_params["digest"]
        path = registry.path(name, digest)
        if not path.is_file():
            raise NotFound(f"no blob {digest} of {name}")
        headers = {"Docker-Content-Digest": digest}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def page(request: Request) -> Response:
        query = request.query_params.get("q", "")[:200]
        rows = await run_in_threadpool(_rows, registry, query)
        text = _PAGE.format(query=html.escape(query, quote=True), bundles=rows)
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(text, headers=headers)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, MemosError)
        code = "NAME_UNKNOWN" if error.status == 404 else "UNSUPPORTED"
        content = {"errors": [{"code": code, "message": error.message}]}
        return JSONResponse(content, status_code=error.status)

    routes = [
        Route("/", page),
        Route("/v2/", version),
        Route("/v2/_catalog", catalogue),
        Route("/v2/{name}/tags/list", tags),
        Route("/v2/{name}/manifests/{ref}", manifests),
        Route("/v2/{name}/blobs/{digest}", blobs),
    ]
    return Starlette(routes=routes, exception_handlers={MemosError: refused})


def run(folder: Path, host: str, port: int) -> None:
    """Serve until a signal."""
    uvicorn.run(create_app(folder), host=host, port=port, log_level="info")


def _by_tag(registry: FolderRegistry, name: str, tag: str) -> bytes:
    return registry.manifest(name, tag)


def _number(text: str | None) -> int:
    return min(int(text[:9]), _MOST_LISTED) if text and text.isdecimal() else _MOST_LISTED


def _rows(registry: FolderRegistry, query: str) -> str:
    rows = []
    for name in registry.names():
        try:
            about = _about(registry, name)
        except MemosError:
            continue
        if all(word in about.casefold() for word in query.casefold().split()):
            rows.append(f"<li>{html.escape(about)}</li>")
    return "".join(rows[:_MOST_LISTED]) or "<li>no such bundle</li>"


def _about(registry: FolderRegistry, name: str) -> str:
    index, key = read_index(registry, name, None)
    newest = index.newest()
    if newest is None:
        return f"{name}: withdrawn"
    data = manifest(registry, name, index.versions[newest])
    found = parsed(Manifest, data, name, MANIFEST_BYTES)
    raw = blob(registry, name, found.config, CONFIG_BYTES)
    config = parsed(BundleConfig, raw, name, CONFIG_BYTES)
    price = f", {config.price}" if config.price else ""
    return f"{name} {newest} ({config.licence}{price}): {config.description} (publisher {key.fingerprint})"
