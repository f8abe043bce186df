"""`memos store publish`, `sign`, `entitle` and `serve`: the side of a publisher."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memos_vllm.cli.keys import parse_duration
from memos_vllm.cli.terminal import say
from memos_vllm.cli.vault import ConfigOption, TenantOption, administrator, opened
from memos_vllm.cube.ids import to_datetime
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import LOCAL_TENANT

if TYPE_CHECKING:
    from memos_vllm.parametric.training.order import Question

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a bundle.")]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        "-r",
        metavar="NAME|FOLDER|URL",
        help="One of store.registries, a folder, or an OCI registry; default: the only one.",
    ),
]
KeyOption = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="Private key of `memos store keys new`.")
]
ValidOption = Annotated[
    str, typer.Option("--valid", metavar="90d|12h", help="How long the index is valid.")
]


def publish(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Such as 1.4.0.")],
    key: KeyOption,
    licence: Annotated[str, typer.Option("--licence", help="SPDX, such as CC-BY-4.0.")],
    cube: Annotated[
        list[str], typer.Option("--cube", metavar="CUBE", help="Shared cube; repeatable.")
    ],
    registry: RegistryOption = None,
    description: Annotated[str, typer.Option("--description")] = "",
    author: Annotated[list[str] | None, typer.Option("--author")] = None,
    language: Annotated[list[str] | None, typer.Option("--language")] = None,
    terms: Annotated[
        Path | None, typer.Option("--terms", metavar="FILE", help="Terms of use.")
    ] = None,
    price: Annotated[
        str | None, typer.Option("--price", help="As text; needs entitlements.")
    ] = None,
    exam: Annotated[
        list[str] | None,
        typer.Option(
            "--exam",
            metavar="CUBE=FILE",
            help="Questions that an adapter answers, as of `memos train --exam`; repeatable.",
        ),
    ] = None,
    valid: ValidOption = "90d",
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Publish shared cubes as a version of a bundle, and sign it."""
    from memos_vllm.memstore.publish import About, publish
    from memos_vllm.memstore.signing import PublisherKey
    from memos_vllm.memstore.store import MemStore

    about = About(
        name=name,
        version=version,
        licence=licence,
        description=description,
        authors=author or (),
        languages=language or (),
        terms=terms.read_text() if terms is not None else None,
        price=price,
    )
    signer, asked = PublisherKey.load(key), _exams(exam or [])
    with opened(config) as system:
        source, found = MemStore(system).registry(registry, any_location=True)
        lasts = timedelta(seconds=parse_duration(valid))
        digest = publish(system, administrator(tenant), found, signer, about, cube, lasts, asked)
    say(f"{name} {version} in {source}: {digest}")
    say(f"publisher {signer.public.fingerprint}")


def _exams(given: list[str]) -> dict[str, list[Question]]:
    from memos_vllm.cli.training import exam_of

    found = {}
    for each in given:
        cube, mark, file = each.rpartition("=")
        if not mark or not cube:
            raise BadRequest(f"--exam {each}: the form is CUBE=FILE")
        found[cube] = exam_of(Path(file))
    return found


def sign(
    name: Name,
    key: KeyOption,
    registry: RegistryOption = None,
    withdraw: Annotated[
        str | None, typer.Option("--withdraw", metavar="VERSION", help="Not to install any more.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason")] = "withdrawn by its publisher",
    valid: ValidOption = "90d",
    config: ConfigOption = None,
) -> None:
    """Sign the index of a bundle anew before it expires, or withdraw a version."""
    from memos_vllm.memstore.publish import sign_again
    from memos_vllm.memstore.signing import PublisherKey
    from memos_vllm.memstore.store import MemStore

    gone = (withdraw, reason) if withdraw is not None else None
    with opened(config) as system:
        _, found = MemStore(system).registry(registry, any_location=True)
        lasts = timedelta(seconds=parse_duration(valid))
        index = sign_again(found, PublisherKey.load(key), name, lasts, gone)
    say(f"{name}: serial {index.serial}, valid until {index.expires:%Y-%m-%d}")


def entitle(
    name: Name,
    key: KeyOption,
    to: Annotated[str, typer.Option("--to", metavar="TENANT", help="Tenant of the subscriber.")],
    seats: Annotated[
        int | None, typer.Option("--seats", min=1, help="People; default: all.")
    ] = None,
    expires_in: Annotated[str | None, typer.Option("--expires-in", metavar="365d")] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="ID", help="Holds there alone; of `memos store id`."),
    ] = None,
) -> None:
    """Print an entitlement: a tenant's right to use a bundle with a price."""
    from memos_vllm.cube.ids import now_us
    from memos_vllm.memstore.entitlement import issue
    from memos_vllm.memstore.model import check_name
    from memos_vllm.memstore.signing import PublisherKey

    ends = None
    if expires_in is not None:
        ends = to_datetime(now_us()) + timedelta(seconds=parse_duration(expires_in))
    signer = PublisherKey.load(key)
    sys.stdout.write(issue(signer, check_name(name), to, seats, ends, server) + "\n")


def serve(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of bundles.")],
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port")] = 5000,
) -> None:
    """Serve a folder of bundles as a read-only OCI registry, with a page to search it."""
    from memos_vllm.memstore.serve import run

    run(folder, host, port)
