"""Zip files from outside, opened safely: nothing is unpacked to disk, and sizes are limits.

Refused are archives that another program might unpack outside of a folder (absolute names, `..`, links),
that two programs read differently (a name twice, members that overlap), that grow without end (a ratio, a
total), and that cannot be read (encrypted members).
"""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TextIO

from memos_vllm.errors import BadRequest, TooLarge, Unprocessable

_SMALL = 1 << 20
"""Members below this are no bombs, whatever their ratio."""
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class SafeZip:
    def __init__(self, path: Path, *, members: int, ratio: int, text_bytes: int) -> None:
        """Open a zip file and check its directory.

        Raises:
            BadRequest: no zip file, or an unsafe one.
            TooLarge: over a limit.
            Unprocessable: encrypted.
        """
        self._path, self._ratio, self._left = path, ratio, text_bytes
        try:
            self._zip = zipfile.ZipFile(path)
            self._infos = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise BadRequest(
                f"{path}: no zip file, or a damaged one ({error}); download it again"
            ) from error
        except OSError as error:
            raise BadRequest(f"cannot read {path}: {error.strerror}") from error
        if len(self._infos) > members:
            raise TooLarge(f"{path}: more than {members} members (imports.members)")
        self._check_names()
        if sum(info.compress_size for info in self._infos) > path.stat().st_size:
            raise BadRequest(f"{path}: its members overlap: it is a zip bomb")

    @property
    def names(self) -> list[str]:
        """Files, without folders, in the order of the archive."""
        return [info.filename for info in self._infos if not info.is_dir()]

    @contextmanager
    def text(self, name: str) -> Iterator[TextIO]:
        """A member as UTF-8 text.

        Raises:
            BadRequest: damaged, or no text.
            TooLarge: over a limit, before it is unpacked.
        """
        info = self._zip.getinfo(name)
        self._check_size(info)
        self._left -= info.file_size
        try:
            with self._zip.open(info) as member:
                yield io.TextIOWrapper(member, encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadRequest(f"{self._path}: {name}: not UTF-8 text") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise BadRequest(
                f"{self._path}: {name} is damaged ({error}); download the file again"
            ) from error

    def close(self) -> None:
        self._zip.close()

    # -- inside -----------------------------------------------------------------------------------

    def _check_names(self) -> None:
        seen: set[str] = set()
        for info in self._infos:
            name = info.filename
            problem = _problem(info)
            # A file system that folds case writes one over the other.
            folded = str(PurePosixPath(name)).casefold()
            if problem is None and folded in seen:
                problem = "a name twice"
            seen.add(folded)
            if problem is not None:
                raise BadRequest(
                    f"{self._path}: {name[:200]!r}: {problem}; this is not an archive that the service "
                    "has written: download it again"
                )
            if info.flag_bits & _ENCRYPTED:
                raise Unprocessable(
                    f"{self._path}: {name[:200]!r} is encrypted: unpack the archive, and import the "
                    "files in it"
                )

    def _check_size(self, info: zipfile.ZipInfo) -> None:
        if info.compress_type not in _METHODS:
            raise BadRequest(
                f"{self._path}: {info.filename} is compressed by another method than deflate: unpack the "
                "archive, and import the files in it"
            )
        if info.file_size > self._left:
            raise TooLarge(
                f"{self._path}: {info.filename} unpacks to {info.file_size} bytes (imports.text_bytes)"
            )
        if info.file_size > _SMALL and info.file_size > self._ratio * max(1, info.compress_size):
            raise TooLarge(
                f"{self._path}: {info.filename} is compressed more than {self._ratio} times "
                "(imports.ratio): it may be a zip bomb"
            )


def _problem(info: zipfile.ZipInfo) -> str | None:
    """Why a member's name or kind is unsafe."""
    name = info.orig_filename
    parts = PurePosixPath(name).parts
    if not parts or "\x00" in name:
        return "an empty name, or one with NUL"
    if name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "an absolute name"
    if ".." in parts:
        return "a name that leaves the folder (`..`)"
    mode = info.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device"
    return None
