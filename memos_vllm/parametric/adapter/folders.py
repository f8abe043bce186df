"""Adapters where the engine reads them: one folder of PEFT's form for each, named by its contents.

A folder is made whole or not at all and never changed: another version is another folder.
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
class Held:
    """An open file with a lock on it."""

    descriptor: int

    def lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        os.close(self.descriptor)


class AdapterFolders:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Args: name: `served_name`."""
        return self._folder / name

    def has(self, name: str) -> bool:
        return self.path(name).is_dir()

    def parents(self, name: str) -> list[str]:
        """Of what it was merged; itself where it was not."""
        with contextlib.suppress(FileNotFoundError):
            found: list[str] = json.loads((self.path(name) / _PARENTS).read_bytes())
            return found
        return [name]

    def ready(self, name: str, load: Callable[[], bytes], check: Callable[[Adapter], None]) -> Path:
        """The adapter's folder, made from its payload where it is not there.

        Args:
            load: reads the payload; called only then.
            check: raises what is wrong with it; nothing is made then.
        Raises:
            DamagedPayload, OSError, VaultUnavailable
        """
        target = self.path(name)
        if not target.is_dir():
            adapter = unpack(load())
            check(adapter)
            self.make(name, adapter)
        return target

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]
        return []

    def hold(self, name: str) -> Held:
        """Keep the folder from being removed. Raises NotFound: it is gone, or going."""
        try:
            descriptor = os.open(self.path(name) / _CONFIG, os.O_RDONLY)
        except FileNotFoundError as error:
            raise NotFound("the adapter was deleted meanwhile", param="model") from error
        held = Held(descriptor)
        if not held.lock(fcntl.LOCK_SH):
            held.release()
            raise NotFound("the adapter was deleted meanwhile", param="model")
        return held

    def remove(self, name: str) -> bool:
        """False: another process computes with it; whoever sweeps next tries again."""
        try:
            held = Held(os.open(self.path(name) / _CONFIG, os.O_RDONLY))
        except FileNotFoundError:
            return True
        try:
            if not held.lock(fcntl.LOCK_EX):
                return False
            going = Path(tempfile.mkdtemp(dir=self._folder, prefix=".gone-"))
            self.path(name).rename(going / name)  # at once: nobody finds half of it
            shutil.rmtree(going)
            return True
        finally:
            held.release()

    def make(self, name: str, adapter: Adapter, parents: Sequence[str] = ()) -> None:
        """Put an adapter there. Args: parents: of what it was merged. Raises OSError."""
        target = self.path(name)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Path(tempfile.mkdtemp(dir=self._folder, prefix=".making-"))
        try:
            text = json.dumps(adapter.config.to_peft(), indent=1)
            (made / _CONFIG).write_text(text, encoding="utf-8")
            safetensors.torch.save_file(adapter.tensors, made / _WEIGHTS)
            if parents:
                (made / _PARENTS).write_text(json.dumps(list(parents)), encoding="utf-8")
            with contextlib.suppress(OSError):  # somebody else made it meanwhile
                os.rename(made, target)  # noqa: PTH104  # Path.rename is the same call
            if not target.is_dir():
                raise OSError(f"the adapter's folder {target} cannot be made")
        finally:
            shutil.rmtree(made, ignore_errors=True)


def served_name(tenant: TenantId, digest: Sha256, model: str) -> str:
    """What an adapter is called outside the vault. Two tenants' copies of one never meet, so that
    nobody can tell from the time that it takes whether another tenant has it, too.

    Args:
        model: what it was checked against; under another model it is checked again.
    """
    return sha256(f"{tenant}\0{digest}\0{model}".encode())


def merged_name(names: Sequence[str], method: str) -> str:
    """Of several adapters as one, in this order."""
    return sha256("\0".join((method, *names)).encode())


def engine_name(name: str) -> str:
    """What the engine calls an adapter of ours. It says all about the contents."""
    return f"{_PREFIX}{name}"


def is_engine_name(given: str) -> bool:
    return given.startswith(_PREFIX) and len(given) == len(_PREFIX) + _DIGEST_CHARACTERS


def engine_id(name: str) -> int:
    """A number for the engine, from the name alone: 62 bits, never 0."""
    return (int(name[:16], 16) >> 2) or 1
