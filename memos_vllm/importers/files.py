"""Readers of imported files, with errors that name the file, the line and the remedy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, TooLarge

MOST_FILE_BYTES = 1 << 30


def read_json(path: Path) -> Any:
    """The whole file as one JSON value. Raises BadRequest."""
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise TooLarge(f"{path}: more than {MOST_FILE_BYTES} bytes; import it in parts")
    except OSError as error:
        _unreadable(path, error)
    return strict_json.parse(
        _read(path), what=str(path), most_bytes=MOST_FILE_BYTES, keep_surrogates=True
    )


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank. Raises BadRequest."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(strict_json.MOST_BYTES + 1):
                number += 1
                if line.strip():
                    yield number, _object(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        _unreadable(path, error)


def first_character(path: Path) -> str:
    """The first character that is not blank; empty for an empty file. Raises BadRequest."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    return line.strip()[0]
    except (OSError, UnicodeDecodeError) as error:
        _unreadable(path, error)
    return ""


def read_bytes(path: Path, most: int) -> bytes:
    """The file's first `most` + 1 bytes. Raises BadRequest."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        _unreadable(path, error)


def content_sha256(path: Path) -> str:
    """Digest of the file's bytes, to detect changes. Raises BadRequest."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        _unreadable(path, error)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = strict_json.parse(line, what=f"{path}:{number}", keep_surrogates=True)
    except BadRequest as error:
        raise BadRequest(f"{error.message}; each line must hold one JSON object") from error
    if not isinstance(value, dict):
        raise BadRequest(
            f"{path}:{number}: a JSON object is needed, not {type(value).__name__}; "
            "each line must hold one JSON object"
        )
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        _unreadable(path, error)


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> NoReturn:
    if isinstance(error, UnicodeDecodeError):
        raise BadRequest(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    raise BadRequest(f"cannot read {path}: {error.strerror}") from error
