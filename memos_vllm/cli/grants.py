"""`memos grants` and `memos groups`: share cubes, deny, and manage groups of people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memos_vllm.cli.keys import parse_duration
from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import (
    ConfigOption,
    JsonOption,
    PersonOption,
    TenantOption,
    administrator,
    opened,
)
from memos_vllm.cube.ids import CubeId, now_us, to_datetime
from memos_vllm.governance.permit import Effect, Permission
from memos_vllm.governance.principal import LOCAL_TENANT, Role

if TYPE_CHECKING:
    from memos_vllm.vault.grants import GrantRecord

app = typer.Typer(
    cls=MemosGroup, no_args_is_help=True, help="Grants on cubes: share with people, or deny."
)
groups = typer.Typer(cls=MemosGroup, no_args_is_help=True, help="Groups of a tenant's people.")

Cube = Annotated[
    str, typer.Argument(metavar="CUBE", help="Id, or name (with --person for a person's cube).")
]
To = Annotated[str | None, typer.Option("--to", metavar="PERSON", help="A person.")]
ToGroup = Annotated[str | None, typer.Option("--group", help="A group, by name or id.")]
ToRole = Annotated[Role | None, typer.Option("--role", help="Keys of this role.")]
ToAll = Annotated[bool, typer.Option("--everyone", help="The whole tenant.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name or id.")]
Member = Annotated[str, typer.Argument(metavar="PERSON")]


@app.command("list")
def list_grants(
    cube: Cube,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the grants on a cube."""
    with opened(config) as system:
        _, found = system.grants.on(administrator(tenant, person), cube)
    _show(found, as_json)


@app.command("set")
def set_grant(
    cube: Cube,
    permission: Annotated[
        list[Permission], typer.Option("--permission", help="Repeatable: read, use, write, …")
    ],
    to: To = None,
    group: ToGroup = None,
    role: ToRole = None,
    everyone: ToAll = False,
    deny: Annotated[bool, typer.Option("--deny", help="Deny instead of allow.")] = False,
    expires_in: Annotated[str | None, typer.Option("--expires-in", metavar="30d|12h|3600s")] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow or deny permissions on a cube to one subject."""
    seconds = parse_duration(expires_in) if expires_in is not None else None
    ends = now_us() + seconds * 1_000_000 if seconds is not None else None
    from memos_vllm.api.grants import subject_of

    subject = subject_of(to, group, role, everyone)
    effect = Effect.DENY if deny else Effect.ALLOW
    with opened(config) as system:
        admin = administrator(tenant, person)
        changed, found = system.grants.put(admin, cube, subject, effect, permission, ends)
        system.settle([CubeId(changed)])
    _show(found, as_json)


@app.command("remove")
def remove_grant(
    cube: Cube,
    to: To = None,
    group: ToGroup = None,
    role: ToRole = None,
    everyone: ToAll = False,
    effect: Annotated[Effect | None, typer.Option("--effect", help="Default: both.")] = None,
    tenant: TenantOption = LOCAL_TENANT,
    person: PersonOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the grants of one subject from a cube."""
    from memos_vllm.api.grants import subject_of

    subject = subject_of(to, group, role, everyone)
    with opened(config) as system:
        admin = administrator(tenant, person)
        changed, found = system.grants.remove(admin, cube, subject, effect)
        system.settle([CubeId(changed)])
    _show(found, as_json)


@groups.command("list")
def list_groups(
    tenant: TenantOption = LOCAL_TENANT,
    person: Annotated[str | None, typer.Option("--person", help="Groups of this person.")] = None,
    config: ConfigOption = None,
) -> None:
    """List the groups of a tenant."""
    with opened(config) as system:
        found = system.groups.all(administrator(tenant, person))
    rows = [(each.name, each.id, each.members, to_datetime(each.created_us)) for each in found]
    print_table(("name", "id", "people", "created (UTC)"), rows, f"tenant {tenant} has no group")


@groups.command("show")
def show_group(
    group: Group, tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None
) -> None:
    """List the people of a group."""
    with opened(config) as system:
        _, people = system.groups.get(administrator(tenant), group)
    print_table(("person",), [(each,) for each in people], "the group is empty")


@groups.command("create")
def create_group(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Create a group."""
    with opened(config) as system:
        made = system.groups.create(administrator(tenant), name)
    say(f"group {made.name} of {tenant}: {made.id}")


@groups.command("delete")
def delete_group(
    group: Group, tenant: TenantOption = LOCAL_TENANT, config: ConfigOption = None
) -> None:
    """Delete a group with its grants."""
    with opened(config) as system:
        gone = system.groups.delete(administrator(tenant), group)
    say(f"group {gone.name} of {tenant} is deleted, with its grants")


@groups.command("add")
def add_member(
    group: Group,
    member: Member,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Add a person to a group."""
    with opened(config) as system:
        changed = system.groups.add(administrator(tenant), group, member)
    say(f"group {changed.name}: {changed.members} people")


@groups.command("remove")
def remove_member(
    group: Group,
    member: Member,
    tenant: TenantOption = LOCAL_TENANT,
    config: ConfigOption = None,
) -> None:
    """Remove a person from a group."""
    with opened(config) as system:
        changed = system.groups.remove(administrator(tenant), group, member)
    say(f"group {changed.name}: {changed.members} people")


def _show(found: list[GrantRecord], as_json: bool) -> None:
    from memos_vllm.api.grants import view_of

    views = [view_of(each) for each in found]
    if as_json:
        print_json([each.model_dump(mode="json") for each in views])
        return
    rows = [
        (
            _subject(record),
            view.effect,
            ", ".join(view.permissions),
            view.expires or "never",
            view.shared_by or "",
            view.origin,
        )
        for record, view in zip(found, views, strict=True)
    ]
    columns = ("subject", "effect", "permissions", "expires", "shared by", "origin")
    print_table(columns, rows, "the cube has no grant")


def _subject(record: GrantRecord) -> str:
    kind = record.grant.kind
    name = record.group or record.grant.subject
    return f"{kind} {name}" if name else "everyone"
