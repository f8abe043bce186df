"""Cubes to and from a portable file: JSON lines, a header and then one cube a line in wire form.

    {"format": "memos-cubes", "version": 1, "tenant": …, "person": …, "exported": …, "cubes": N}
    {"meta": {…}, "payload": {"type": "explicit", "format": "text", "content": [items]}}

The head versions are exported, not the history.  Restored cubes get new ids, with the old one as their
parent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import MemCube, NewCube, NewMeta, State
from memos_vllm.errors import BadRequest, Conflict, NotFound
from memos_vllm.governance.principal import Principal
from memos_vllm.importers.files import json_lines
from memos_vllm.importers.source import ImportedCube, ImportSource, refusing_other_shapes
from memos_vllm.system import MemorySystem
from memos_vllm.vault.listing import every
from memos_vllm.vault.views import CubeFilter

FORMAT = "memos-cubes"
VERSION = 1
ORIGIN = "import:cubes"
_NAME_LENGTH = 200


def export_bundle(
    system: MemorySystem,
    principal: Principal,
    path: Path,
    *,
    person: str | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write every cube of the tenant, or of one person in it; returns how many.

    The file appears whole or not at all, readable by its owner alone: it holds memories.

    Raises:
        Conflict: the file exists and `replace` is not set.
        DamagedPayload: a cube whose bytes do not match their checksum; nothing is written.
    """
    if path.exists() and not replace:
        raise Conflict(f"{path} exists already; --force replaces it")
    announced = {
        "format": FORMAT,
        "version": VERSION,
        "tenant": principal.tenant,
        "person": person,
        "exported": to_datetime(now_us()).isoformat(),
    }
    headers = every(system.views, principal, CubeFilter(person=person))
    ids = [header.id for header in headers][::-1]  # oldest first
    detail = {"person": person or "", "cubes": len(ids)}
    system.audit.note(principal, "bundle.export", "bundle", detail)
    body, whole = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("body", "new"))
    try:
        count = _write_cubes(body, system, principal, ids, progress)
        with _private(whole) as file, body.open("rb") as cubes:
            file.write(_line(announced | {"cubes": count}))
            shutil.copyfileobj(cubes, file)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    except OSError as error:
        raise BadRequest(f"cannot write {path}: {error.strerror}") from error
    finally:
        for temporary in (body, whole):
            with suppress(OSError):  # never hides the error of the export itself
                temporary.unlink(missing_ok=True)
    return count


def _write_cubes(
    path: Path,
    system: MemorySystem,
    principal: Principal,
    ids: list[str],
    progress: Callable[[int, int], None],
) -> int:
    count = 0
    with _private(path) as file:
        for position, cube_id in enumerate(ids, start=1):
            with suppress(NotFound):  # deleted since the list was read
                file.write(_line(system.portable(principal, cube_id).model_dump(mode="json")))
                count += 1
            progress(position, len(ids))
    return count


def _private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


# -- reading --------------------------------------------------------------------------------------


@refusing_other_shapes
def bundle_source(path: Path, person: str | None = None) -> ImportSource:
    """Cubes of a bundle, for their original owners, or all for `person`.

    Raises:
        BadRequest: no bundle, a newer version, a truncated file, or a line that is no cube; the file
            is read to its end before the first cube is imported.
    """
    total = sum(1 for _ in _cubes(path, person))
    return ImportSource("cubes", path, total, lambda: _cubes(path, person))


def _cubes(path: Path, person: str | None) -> Iterator[ImportedCube]:
    lines = json_lines(path)
    expected = _check_header(path, next(lines, (1, {}))[1])
    count, names = 0, set[str]()
    for number, raw in lines:
        try:
            cube = _restored(MemCube.model_validate(raw), person, names)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise BadRequest(f"{path}:{number}: no cube: `{where}`: {problem['msg']}") from error
        yield cube
        count += 1
    if count != expected:
        raise BadRequest(
            f"{path}: the header announces {expected} cubes and the file has {count}: it is truncated or "
            "was edited by hand; export again"
        )


def _check_header(path: Path, header: dict[str, Any]) -> int:
    if header.get("format") != FORMAT or not isinstance(header.get("cubes"), int):
        raise BadRequest(
            f"{path}:1: no header of a bundle; `memos export` writes one. For other files there "
            "are `memos import jsonl`, `openai-chat` and `locomo`"
        )
    if header.get("version") != VERSION:
        raise BadRequest(
            f"{path}:1: bundle version {header.get('version')!r}; this memos_vllm reads {VERSION}: "
            "upgrade memos-vllm, or export with the version that you import with"
        )
    return int(header["cubes"])


def _restored(cube: MemCube, person: str | None, names: set[str]) -> ImportedCube:
    old = cube.meta
    provenance = old.provenance.model_copy(update={"origin": ORIGIN, "parents": [old.id]})
    # An archived cube must not be readable for a moment on its way.
    state = old.state if old.state is not State.EXPIRED or old.expires is None else State.ACTIVATED
    meta = NewMeta(
        name=_free_name(old.name, old.person, names) if person else old.name,
        person=person or old.person,
        placement=old.placement,
        state=State.ACTIVATED if state is State.ACTIVATED else State.GENERATED,
        priority=old.priority,
        tags=old.tags,
        access=old.access,
        expires=old.expires,
        provenance=provenance,
    )
    return ImportedCube(NewCube(meta=meta, payload=cube.payload), state, old.id)


def _free_name(name: str | None, owner: str | None, taken: set[str]) -> str | None:
    """Free name for a cube where cubes of several owners become one person's: `name (owner)`."""
    if name is None:
        return None
    free, number = name, 1
    while free in taken:
        mark = f" ({owner or 'shared'})" if number == 1 else f" ({owner or 'shared'} {number})"
        free, number = f"{name[: _NAME_LENGTH - len(mark)]}{mark}", number + 1
    taken.add(free)
    return free
