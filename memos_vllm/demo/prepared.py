"""Folder that is converted from one file once, cached, and never used incomplete.

A folder is complete only with a marker that holds the digests of its source and of every file written:
an interrupted or truncated folder, or one of another source, is rebuilt.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "finished.json"


def prepare(source: Path, target: Path, recipe: int, convert: Callable[[Path, Path], None]) -> Path:
    """The folder `target`: built on the first call, verified on later ones.

    Safe across processes: a second caller waits for the first.

    Args:
        recipe: version of `convert`; folders of another version are rebuilt.
        convert: writes the files of a source into an empty folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / f"{target.name}.lock"):
        digest = _sha256(source)
        if not _is_finished(target, digest, recipe):
            _build(source, digest, target, recipe, convert)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock between processes; the kernel releases it when its holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_finished(target: Path, digest: str, recipe: int) -> bool:
    """Whether the files of `target` match its marker."""
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return bool(marker == _marker(target, digest, recipe))


def _build(
    source: Path, digest: str, target: Path, recipe: int, convert: Callable[[Path, Path], None]
) -> None:
    """Convert in a temporary folder and rename it, so that the target is always complete."""
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        convert(source, partial)
        marker = json.dumps(_marker(partial, digest, recipe), indent=2)
        (partial / MARKER).write_text(marker, encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp sets 0700, and the server may run as another user
        _remove(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _marker(folder: Path, digest: str, recipe: int) -> dict[str, object]:
    files = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    return {"recipe": recipe, "source_sha256": digest, "files": files}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
