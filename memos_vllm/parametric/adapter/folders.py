"""Adapter folders for the engine: one in PEFT's format per adapter, named by its contents.

A folder is created atomically and never changed: another version is another folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch

from memos_vllm.cube.ids import Sha256, TenantId, sha256
from memos_vllm.errors import NotFound
from memos_vllm.parametric.adapter.packed import Adapter, unpack

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PARENTS = "merged_from.json"
_PREFIX = "cube@"
_DIGEST_CHARACTERS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class FolderLock:
    """An advisory lock (`flock`) on an adapter folder, held by an open file."""

    descriptor: int

    def acquire(self, kind: int) -> bool:
        """Take or convert the lock without waiting; False: another holder conflicts.

        Args:
            kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        """
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        os.close(self.descriptor)


class AdapterFolders:
    """The adapter folders below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Folder of an adapter.

        Args:
            name: `served_name` or `merged_name`.
        """
        return self._folder / name

    def has(self, name: str) -> bool:
        return self.path(name).is_dir()

    def parents(self, name: str) -> list[str]:
        """Names of the adapters that it was merged from; its own name if it was not merged."""
        with contextlib.suppress(FileNotFoundError):
            found: list[str] = json.loads((self.path(name) / _PARENTS).read_bytes())
            return found
        return [name]

    def ready(self, name: str, load: Callable[[], bytes], check: Callable[[Adapter], None]) -> Path:
        """The adapter's folder, created from its payload if it does not exist.

        Args:
            load: reads the payload; called only to create the folder.
            check: raises if the adapter cannot be served; no folder is created then.

        Raises:
            DamagedPayload, OSError, VaultUnavailable: loading failed.
        """
        target = self.path(name)
        if not target.is_dir():
            adapter = unpack(load())
            check(adapter)
            self.make(name, adapter)
        return target

    def names(self) -> list[str]:
        """Names of all adapters with a folder."""
        with contextlib.suppress(FileNotFoundError):
            return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]
        return []

    def hold(self, name: str) -> FolderLock:
        """Take a shared lock, which prevents removal. Raises NotFound: removed, or being removed."""
        try:
            descriptor = os.open(self.path(name) / _CONFIG, os.O_RDONLY)
        except FileNotFoundError as error:
            raise NotFound("the adapter was deleted meanwhile", param="model") from error
        lock = FolderLock(descriptor)
        if not lock.acquire(fcntl.LOCK_SH):
            lock.release()
            raise NotFound("the adapter was deleted meanwhile", param="model")
        return lock

    def remove(self, name: str) -> bool:
        """Remove a folder. False: a process has the adapter in use; the next cleanup retries."""
        try:
            lock = FolderLock(os.open(self.path(name) / _CONFIG, os.O_RDONLY))
        except FileNotFoundError:
            return True
        try:
            if not lock.acquire(fcntl.LOCK_EX):
                return False
            trash = Path(tempfile.mkdtemp(dir=self._folder, prefix=".gone-"))
            self.path(name).rename(trash / name)  # atomic: no reader sees a partial folder
            shutil.rmtree(trash)
            return True
        finally:
            lock.release()

    def make(self, name: str, adapter: Adapter, parents: Sequence[str] = ()) -> None:
        """Create the folder of an adapter.

        Args:
            parents: names of the adapters that it was merged from.

        Raises:
            OSError: the folder cannot be created.
        """
        target = self.path(name)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = Path(tempfile.mkdtemp(dir=self._folder, prefix=".making-"))
        try:
            text = json.dumps(adapter.config.to_peft(), indent=1)
            (partial / _CONFIG).write_text(text, encoding="utf-8")
            safetensors.torch.save_file(adapter.tensors, partial / _WEIGHTS)
            if parents:
                (partial / _PARENTS).write_text(json.dumps(list(parents)), encoding="utf-8")
            with contextlib.suppress(OSError):  # another process created it meanwhile
                os.rename(partial, target)  # noqa: PTH104  # Path.rename is the same call
            if not target.is_dir():
                raise OSError(f"the adapter's folder {target} cannot be created")
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def served_name(tenant: TenantId, digest: Sha256, model: str) -> str:
    """Name of an adapter outside the vault, 64 hex characters.

    Two tenants' copies of one adapter have different names, so that the load time does not reveal
    whether another tenant has it.

    Args:
        model: identity of the base model; the adapter is checked again under another one.
    """
    return sha256(f"{tenant}\0{digest}\0{model}".encode())


def merged_name(names: Sequence[str], method: str) -> str:
    """Name of the merge of several adapters, in this order."""
    return sha256("\0".join((method, *names)).encode())


def engine_name(name: str) -> str:
    """Name of an adapter in the engine; it identifies the contents."""
    return f"{_PREFIX}{name}"


def is_engine_name(given: str) -> bool:
    """Whether a name was made by `engine_name`."""
    return given.startswith(_PREFIX) and len(given) == len(_PREFIX) + _DIGEST_CHARACTERS


def engine_id(name: str) -> int:
    """Integer id of an adapter for the engine, from its name: 62 bits, never 0."""
    return (int(name[:16], 16) >> 2) or 1
