"""Journal of reads: what enters a prompt is on the disk before the reply's first token is sent.

Each process appends to files of its own, under a lock that ends with it; a thread writes all entries
that wait with one fsync.  An entry is settled when the audit log has its record, and a file without
open entries is emptied.  The files of a dead process are read by another one (`abandoned`), which puts
the entries that are still open into the log.

    {"id", "at_us", "tenant", "person", "key_id", "token", "request_id", "cubes", "mac"}
    {"settled": id}
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from memos_vllm.cube.ids import canonical_json
from memos_vllm.errors import AuditUnavailable, ConfigError
from memos_vllm.governance.audit_keys import AuditKeys

log = logging.getLogger(__name__)
_ROTATED_BYTES = 8 << 20
_SUFFIX = ".reads"
_DOMAIN = "memos-audit-read-1"


@dataclasses.dataclass(frozen=True)
class Read:
    """Memory that enters one prompt."""

    id: str
    at_us: int
    tenant: str
    person: str
    key_id: str
    token: str
    request_id: str
    cubes: tuple[str, ...]
    """`<cube>@<version>`."""

    def message(self) -> bytes:
        return canonical_json([_DOMAIN, *dataclasses.astuple(self)])


class _File:
    """One file of this process, with its open entries."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"
        draft = self.path.with_suffix(".new")  # a name that other processes do not read
        self.descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        draft.rename(self.path)
        entries = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entries)
        finally:
            os.close(entries)
        self.open: set[str] = set()
        self.size = 0

    def write(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.write(self.descriptor, data[done:])
        self.size += len(data)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class ReadJournal:
    def __init__(self, folder: Path, keys: AuditKeys) -> None:
        self._folder, self._keys = folder, keys
        self._changed = threading.Condition()
        self._waiting: list[tuple[Read, Future[None]]] = []
        self._settled: list[str] = []
        self._files: list[_File] = []
        """The last one is written to."""
        self._thread: threading.Thread | None = None
        self._stopped = self._is_full = False

    def append(self, read: Read) -> Future[None]:
        """Write an entry; the future ends when it is on the disk, or with AuditUnavailable."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a client that goes away cancels no entry
        with self._changed:
            if self._stopped:
                future.set_exception(AuditUnavailable("the journal of reads is closed"))
                return future
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memos-reads", daemon=True)
                self._thread.start()
            self._waiting.append((read, future))
            self._changed.notify()
        return future

    def settle(self, read: Read) -> None:
        """The audit log has its record."""
        with self._changed:
            self._settled.append(read.id)
            self._changed.notify()

    def rotate(self) -> None:
        """Begin another file: the one of before goes with its last open entry, and names with it."""
        with self._changed:
            self._is_full = True

    def close(self) -> None:
        """Write what waits. Files with open entries stay, for the next process."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        for file in self._files:
            if file.open:
                os.close(file.descriptor)
            else:
                file.remove()
        self._files.clear()

    def abandoned(self) -> Iterator[list[Read]]:
        """Open entries of each dead process, whose file is removed when the caller goes on.

        Raises:
            AuditUnavailable: the folder cannot be read.
        """
        try:
            paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise AuditUnavailable(f"the journal of reads cannot be read: {error}") from error
        self._keys.reload()
        own = {file.path for file in self._files}
        for path in paths:
            if path not in own:
                yield from self._abandoned(path)

    # -- inside -----------------------------------------------------------------------------------

    def _abandoned(self, path: Path) -> Iterator[list[Read]]:
        try:
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # its process runs
                if not os.fstat(file.fileno()).st_nlink:
                    return  # another process was first
                found = self._read(file.read().splitlines(), path)
                if found is not None:
                    yield found
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            return  # another process was first
        except OSError as error:
            raise AuditUnavailable(f"the journal of reads cannot be read: {error}") from error

    def _read(self, lines: list[bytes], path: Path) -> list[Read] | None:
        """Open entries of a file; None: it needs a key that is not known, and stays."""
        found: dict[str, Read] = {}
        for line in lines:
            try:
                fields = json.loads(line)
                if "settled" in fields:
                    found.pop(fields["settled"], None)
                    continue
                mac, key = fields.pop("mac"), self._keys.find(fields.pop("mac_key"))
                read = Read(**fields | {"cubes": tuple(fields["cubes"])})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                # The last line of a killed process: its reply was not begun.
                log.warning("a line of %s is damaged: %s", path, error)
                continue
            if key is None:
                log.error("entries of %s need an audit key that this server does not have", path)
                return None
            if key.mac(read.message()) != mac:
                log.error("an entry of %s was not written by this server", path)
                continue
            found[read.id] = read
        return list(found.values())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._settled or self._stopped)
                waiting, self._waiting = self._waiting, []
                settled, self._settled = self._settled, []
                if not waiting and not settled:
                    return
            self._write(waiting, settled)

    def _write(self, waiting: list[tuple[Read, Future[None]]], settled: list[str]) -> None:
        try:
            if waiting:
                file = self._current()
                file.write(b"".join(self._line(read) for read, _ in waiting))
                os.fdatasync(file.descriptor)
                file.open |= {read.id for read, _ in waiting}
        except (OSError, ConfigError) as error:
            if self._files:
                self._files[-1].size = _ROTATED_BYTES  # it may end with a part of a line
            for _, future in waiting:
                future.set_exception(
                    AuditUnavailable(f"the journal of reads cannot be written: {error}")
                )
        else:
            for _, future in waiting:
                future.set_result(None)
        with contextlib.suppress(OSError):  # then these records may be twice in the log
            self._close_entries(settled)

    def _current(self) -> _File:
        if not self._files or self._is_full or self._files[-1].size >= _ROTATED_BYTES:
            self._files.append(_File(self._folder))
            self._is_full = False
        return self._files[-1]

    def _close_entries(self, settled: list[str]) -> None:
        for file in list(self._files):
            mine = [each for each in settled if each in file.open]
            if not mine:
                continue
            file.open.difference_update(mine)
            if file.open:
                file.write(b"".join(canonical_json({"settled": each}) + b"\n" for each in mine))
            elif file is self._files[-1]:
                os.ftruncate(file.descriptor, 0)
                file.size = 0
            else:
                self._files.remove(file)
                file.remove()

    def _line(self, read: Read) -> bytes:
        key = self._keys.current
        fields = dataclasses.asdict(read)
        return canonical_json(fields | {"mac_key": key.id, "mac": key.mac(read.message())}) + b"\n"
