"""The memory system opened for one command, with or without a running server beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memos_vllm.cli.terminal import say
from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import SHARED, TenantId
from memos_vllm.errors import ConfigError, Conflict
from memos_vllm.governance.principal import LOCAL_TENANT, Principal, Role

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML file; default: $MEMOS_CONFIG, else defaults."
    ),
]
TenantOption = Annotated[str, typer.Option("--tenant", help="Tenant of the memory.")]
PersonOption = Annotated[
    str | None,
    typer.Option("--person", help="Person of the tenant; default: its shared memory."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def build(config: Config) -> MemorySystem:
    """Build the system without opening it. Raises ConfigError."""
    # Importing Chroma takes a second: not for `memos --help` or a usage error.
    from memos_vllm.system import MemorySystem

    try:
        return MemorySystem(config)
    except OSError as error:
        raise ConfigError(
            f"cannot write below {config.root} ({error.strerror}): set `home` to a writable folder"
        ) from error


@contextmanager
def opened(config: Path | None) -> Iterator[MemorySystem]:
    """Open the system for one command. Raises ConfigError, VaultUnavailable."""
    # The embedder's progress bar would overwrite ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    system = build(load_config(config))
    try:
        yield system.open()
    finally:
        system.close()


def administrator(tenant: str, person: str | None = None) -> Principal:
    """An admin principal: a user who can run this command has the vault's files anyway."""
    principal = Principal(TenantId(tenant or LOCAL_TENANT), Role.ADMIN, key_id="cli", person=SHARED)
    return principal.as_person(person)


def can_index(system: MemorySystem) -> bool:
    """Whether this command may write the index; else a running server does, from the outbox.

    Raises:
        Conflict: the index holds vectors of another embedder.
    """
    if not system.index.claim():
        return False
    stored, ours = system.outbox.index_signature(), system.indexer.signature
    if stored is None:
        system.outbox.set_index_signature(ours)
    elif stored != ours:
        raise Conflict(
            f"the index was built with {stored}, but the configuration has {ours}: run `memos reindex`, "
            "or use the configuration that the index was built with"
        )
    return True


def say_index_pending(system: MemorySystem, indexed_here: bool) -> None:
    """Report a stored change that is not indexed yet."""
    if not indexed_here:
        say("a running server holds the index and indexes this within a second")
    elif waiting := system.outbox.size():
        say(
            f"stored; {waiting} changes are not indexed yet: `memos doctor` shows the reason, "
            "`memos reindex` retries"
        )
