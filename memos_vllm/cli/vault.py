"""The memory system as the commands use it: opened for one command, beside a running server or not."""

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
TenantOption = Annotated[str, typer.Option("--tenant", help="Whose memory.")]
PersonOption = Annotated[
    str | None,
    typer.Option("--person", help="The person inside the tenant; without: its shared memory."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def build(config: Config) -> MemorySystem:
    """Not opened yet. Raises ConfigError."""
    # Chroma and its like take a second to import: not for `memos --help` or a typing mistake.
    from memos_vllm.system import MemorySystem

    try:
        return MemorySystem(config)
    except OSError as error:
        raise ConfigError(
            f"cannot write below {config.root} ({error.strerror}): set `home` to a folder of yours"
        ) from error


@contextmanager
def opened(config: Path | None) -> Iterator[MemorySystem]:
    """Raises ConfigError, VaultUnavailable."""
    # The embedder's loading bar would be drawn through our own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    system = build(load_config(config))
    try:
        yield system.open()
    finally:
        system.close()


def administrator(tenant: str, person: str | None = None) -> Principal:
    """Whoever can run this command has the vault's files anyway."""
    principal = Principal(TenantId(tenant or LOCAL_TENANT), Role.ADMIN, key_id="cli", person=SHARED)
    return principal.as_person(person)


def can_index(system: MemorySystem) -> bool:
    """Whether this command may write the index; else a server does, and the outbox tells it what.

    Raises:
        Conflict: the index holds vectors of another embedder, which would be mixed with ours.
    """
    if not system.index.claim():
        return False
    stored, ours = system.outbox.index_signature(), system.indexer.signature
    if stored is None:
        system.outbox.set_index_signature(ours)
    elif stored != ours:
        raise Conflict(
            f"the index was built with {stored}, and this configuration has {ours}: run "
            "`memos reindex`, or use the configuration that the index was built with"
        )
    return True


def say_what_waits(system: MemorySystem, indexed_here: bool) -> None:
    """After a change: it is stored, and this says when the index knows of it, if that is later."""
    if not indexed_here:
        say("a running server holds the index: it takes this in within a second")
    elif waiting := system.outbox.size():
        say(
            f"stored; {waiting} changes wait to be indexed: `memos doctor` says why, and "
            "`memos reindex` tries again"
        )
