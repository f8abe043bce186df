"""`memos store`: publish, find, install, update and remove bundles of memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memos_vllm.cli import store_keys, store_publish
from memos_vllm.cli.store_publish import Name, RegistryOption
from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import ConfigOption, JsonOption, TenantOption, administrator, opened
from memos_vllm.cube.bundle import Follow
from memos_vllm.cube.ids import to_datetime
from memos_vllm.governance.principal import LOCAL_TENANT, Principal

if TYPE_CHECKING:
    from memos_vllm.memstore.difference import CubeDifference
    from memos_vllm.memstore.registry import Registry
    from memos_vllm.memstore.store import MemStore, Outcome
    from memos_vllm.system import MemorySystem
    from memos_vllm.vault.bundle_rows import Installed

app = typer.Typer(
    cls=MemosGroup,
    no_args_is_help=True,
    help="Bundles of memory: publish, install, update, remove.",
)
app.add_typer(store_keys.app, name="keys")
for command in (
    store_publish.publish,
    store_publish.sign,
    store_publish.entitle,
    store_publish.serve,
):
    app.command()(command)

ReaderOption = Annotated[
    list[str] | None,
    typer.Option("--reader", metavar="PERSON", help="Repeatable; default: the whole tenant."),
]
_SHOWN = 20


@contextmanager
def _open(
    config: Path | None, tenant: str, registry: str | None
) -> Iterator[tuple[MemorySystem, MemStore, Principal, str, Registry]]:
    from memos_vllm.memstore.store import MemStore

    with opened(config) as system:
        store = MemStore(system)
        yield system, store, administrator(tenant), *store.registry(registry, any_location=True)


@app.command()
def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORD ...]")] = None,
    registry: RegistryOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the bundles of a registry that have all the words."""
    from memos_vllm.api.store_models import published
    from memos_vllm.memstore.catalogue import Catalogue

    with _open(config, tenant, registry) as (system, _, caller, _, found):
        shown = Catalogue(system, caller, found).search(" ".join(words or []))
    if as_json:
        print_json([published(each).model_dump(mode="json") for each in shown])
        return
    print_table(
        ["name", "newest", "licence", "publisher", "trusted", "description"],
        [
            [
                each.index.name,
                each.index.newest() or "withdrawn",
                each.config.licence if each.config else "",
                each.publisher.fingerprint[:16],
                "yes" if each.is_trusted else "no",
                each.config.description[:80] if each.config else "",
            ]
            for each in shown
        ],
        empty="the registry has no such bundle",
    )


@app.command()
def show(
    name: Name,
    registry: RegistryOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Show a bundle of a registry before it is installed, as JSON."""
    from memos_vllm.api.store_models import published
    from memos_vllm.memstore.catalogue import Catalogue

    with _open(config, tenant, registry) as (system, _, caller, _, found):
        print_json(published(Catalogue(system, caller, found).show(name)).model_dump(mode="json"))


@app.command("list")
def list_bundles(
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the installed bundles of a tenant."""
    from memos_vllm.api.store_models import view

    with opened(config) as system:
        found = system.bundles.all(administrator(tenant).tenant)
    if as_json:
        print_json([view(each).model_dump(mode="json") for each in found])
        return
    print_table(
        ["name", "version", "state", "follows", "offered", "cubes", "adapters", "ends"],
        [
            [
                each.name,
                each.version,
                each.state,
                each.follow,
                each.offered or "",
                len(each.cubes),
                ", ".join(
                    f"{adapter}: {gate.get('outcome', 'waiting')}"
                    for adapter, gate in each.gates.items()
                ),
                to_datetime(each.ends_us).date().isoformat() if each.ends_us else "",
            ]
            for each in found
        ],
        empty="no bundle is installed",
    )


@app.command()
def install(
    name: Name,
    registry: RegistryOption = None,
    version: Annotated[str | None, typer.Option("--version", help="Default: the newest.")] = None,
    follow: Annotated[
        Follow, typer.Option("--follow", help="What a newer version does.")
    ] = Follow.NEVER,
    reader: ReaderOption = None,
    publisher: Annotated[
        str | None,
        typer.Option("--publisher", metavar="FINGERPRINT", help="Trust this key from now on."),
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Use it at once, without a look at it.")
    ] = False,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Install a bundle; no prompt holds it until it is approved."""
    with _open(config, tenant, registry) as (_, store, caller, source, found):
        done = store.install(
            caller, source, found, name, version, follow=follow, readers=reader, publisher=publisher
        )
        if approve:
            store.approve(caller, name, digest=done.bundle.digest)
        _say(done)
    if not approve:
        say(f"look at it, then: memos store approve {name} --tenant {tenant}")


@app.command()
def approve(
    name: Name,
    reader: ReaderOption = None,
    entitlement: Annotated[
        Path | None,
        typer.Option("--entitlement", metavar="FILE", help="For a bundle with a price."),
    ] = None,
    trust_adapters: Annotated[
        bool, typer.Option("--trust-adapters", help="Use its adapters without a pass of the gate.")
    ] = False,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Let the tenant, or some people, use an installed bundle; renew its entitlement."""
    text = entitlement.read_text() if entitlement is not None else None
    with opened(config) as system:
        from memos_vllm.memstore.store import MemStore

        caller = administrator(tenant)
        done = MemStore(system).approve(
            caller, name, readers=reader, entitlement=text, trust_adapters=trust_adapters
        )
    who = ", ".join(done.readers) if done.readers is not None else "the whole tenant"
    until = f" until {to_datetime(done.ends_us):%Y-%m-%d}" if done.ends_us is not None else ""
    say(f"{name} {done.version} is used by {who}{until}")
    _say_gates(done)


@app.command()
def update(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Look for newer versions of all, as each follows.")
    ] = False,
    version: Annotated[str | None, typer.Option("--version", help="Default: the newest.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference and offer it.")
    ] = False,
    registry: RegistryOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Put a newer version in place, or with --version any; --dry-run shows the difference."""
    from memos_vllm.errors import BadRequest

    if (name is None) is not every:
        raise BadRequest("give a name, or --all")
    with opened(config) as system:
        from memos_vllm.memstore.store import MemStore

        store, caller = MemStore(system), administrator(tenant)
        names = [each.name for each in system.bundles.all(caller.tenant)] if every else [name or ""]
        for each in names:
            source = registry or system.bundles.get(caller.tenant, each).source
            found = store.registry(source, any_location=True)[1]
            if every or dry_run:
                done = store.check(caller, found, each)
            else:
                done = store.update(caller, found, each, version)
            if done is None:
                say(f"{each}: no newer version")
            else:
                _say(done)


@app.command()
def rollback(
    name: Name,
    registry: RegistryOption = None,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Back to the version that was installed before."""
    with opened(config) as system:
        from memos_vllm.memstore.store import MemStore

        store, caller = MemStore(system), administrator(tenant)
        source = registry or system.bundles.get(caller.tenant, name).source
        _say(store.rollback(caller, store.registry(source, any_location=True)[1], name))


@app.command()
def subscribe(
    name: Name,
    follow: Annotated[Follow, typer.Option("--follow")] = Follow.APPROVE,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Set what a newer version does: it is offered (approve), put in place (auto), or nothing (never)."""
    with opened(config) as system:
        caller = administrator(tenant)
        offered = system.bundles.get(caller.tenant, name).offered
        system.bundles.note(caller, name, follow=follow, offered=offered)
    say(f"{name}: {follow}")


@app.command()
def uninstall(name: Name, tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None) -> None:
    """Delete a bundle with all that it brought; prints a signed receipt."""
    with opened(config) as system:
        from memos_vllm.memstore.store import MemStore

        print_json(MemStore(system).uninstall(administrator(tenant), name))


@app.command("id")
def server_id(config: ConfigOption = None) -> None:
    """Print the id of this server, for an entitlement that holds here alone."""
    with opened(config) as system:
        from memos_vllm.memstore.store import MemStore

        sys.stdout.write(MemStore(system).server_id() + "\n")


@app.command()
def usage(
    tenant: TenantOption = LOCAL_TENANT,
    since: Annotated[str, typer.Option("--since", metavar="YYYY-MM-DD")] = "",
    config: ConfigOption = None,
) -> None:
    """Requests and prompt tokens of each bundle by day, as CSV."""
    import dataclasses

    from memos_vllm.api.store_models import usage_csv

    with opened(config) as system:
        rows = system.bundle_usage.by_day(administrator(tenant).tenant, since)
    sys.stdout.write(usage_csv([dataclasses.asdict(row) for row in rows]))


def _say(done: Outcome) -> None:
    say(f"{done.bundle.name} {done.bundle.version} is {done.bundle.state}")
    _say_gates(done.bundle)
    for name, why in done.skipped.items():
        say(f"  left out: {name}: {why}")
    for each in done.differences:
        _say_difference(each)
    if done.bundle.offered is not None:
        say(f"  {done.bundle.offered} is offered: memos store update {done.bundle.name}")


def _say_gates(bundle: Installed) -> None:
    for name, gate in bundle.gates.items():
        why = "; ".join(gate.get("reasons", ()))
        said = gate.get("outcome", "waits for its exam, in the server or by `memos jobs run`")
        say(f"  adapter {name}: {said}{': ' if why else ''}{why}")


def _say_difference(each: CubeDifference) -> None:
    say(f"  {each.change}: {each.cube} ({each.kind})")
    for sign_, texts in (("+", each.added), ("-", each.removed)):
        for text in texts[:_SHOWN]:
            say(f"    {sign_} {' '.join(text.split())[:200]}")
        if len(texts) > _SHOWN:
            say(f"    {sign_} and {len(texts) - _SHOWN} more")
