"""`memos keys`: create, list, rotate and revoke API keys of tenants."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from memos_vllm.cli.terminal import MemosGroup, print_json, print_table, say
from memos_vllm.cli.vault import ConfigOption, JsonOption, administrator, opened
from memos_vllm.config.secrets import CACHE_SALT, PERSON_TOKENS
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role, Scope

app = typer.Typer(
    cls=MemosGroup, no_args_is_help=True, help="API keys; each belongs to one tenant."
)

_DURATION = re.compile(r"(\d{1,9})([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_SECONDS = 100 * 365 * 86400
_LABEL_LENGTH = 200


@app.command()
def create(
    tenant: Annotated[
        str, typer.Option("--tenant", help="Tenant of the key; its first key creates it.")
    ],
    role: Annotated[Role, typer.Option("--role", help="Permissions of the key.")] = Role.WRITER,
    label: Annotated[str, typer.Option("--label", help="Label shown by `memos keys list`.")] = "",
    expires_in: Annotated[
        str | None,
        typer.Option("--expires-in", metavar="30d|12h|3600s", help="Lifetime; default: no expiry."),
    ] = None,
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="Scope of the key, repeatable; default: all."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key and show it once: only its digest is stored."""
    if len(label) > _LABEL_LENGTH:
        raise BadRequest(f"a label has at most {_LABEL_LENGTH} characters", param="label")
    ttl_seconds = parse_duration(expires_in) if expires_in is not None else None
    with opened(config) as system:
        record, key = system.keys.create(
            tenant, role, label=label, ttl_seconds=ttl_seconds, scopes=scope
        )
    expires = to_datetime(record.expires_us).isoformat() if record.expires_us else None
    if as_json:
        print_json(
            {"id": record.id, "key": key, "tenant": tenant, "role": str(role), "expires": expires}
        )
        return
    typer.echo(key)
    say(
        f"key {record.id}: tenant {tenant}, role {role}, {f'expires {expires}' if expires else 'no expiry'}"
    )
    say("this is the only time the key is shown: store it now")


@app.command("list")
def list_keys(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Keys of this tenant only.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """List keys, without their secrets."""
    with opened(config) as system:
        records = system.keys.list(tenant)
    rows = [
        (
            key.id,
            key.tenant,
            key.role,
            key.label,
            to_datetime(key.created_us),
            to_datetime(key.expires_us) if key.expires_us else "never",
            _state(key.revoked_us, key.expires_us),
        )
        for key in records
    ]
    columns = ("id", "tenant", "role", "label", "created (UTC)", "expires", "state")
    print_table(columns, rows, "there is no key; create one with `memos keys create --tenant NAME`")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `memos keys list`.")],
    config: ConfigOption = None,
) -> None:
    """Revoke a key permanently."""
    with opened(config) as system:
        record = system.keys.revoke(key_id)
        lag = system.config.governance.key_cache_seconds
    say(
        f"key {record.id} of {record.tenant} is revoked; running servers reject it within {lag:g} s"
    )


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id from `memos keys list`.")],
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="24h", help="How long the secret before works; 0: ends."),
    ] = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and show it once; both work during the grace time."""
    grace_seconds = 0 if grace.strip() == "0" else parse_duration(grace, "--grace")
    with opened(config) as system:
        record, key = system.keys.rotate(key_id, grace_seconds)
    if as_json:
        print_json({"id": record.id, "key": key, "grace_seconds": grace_seconds})
        return
    typer.echo(key)
    say(f"key {record.id} of {record.tenant}: the secret before works for {grace_seconds} s more")
    say("this is the only time the key is shown: store it now")


@app.command("rotate-tokens")
def rotate_tokens(config: ConfigOption = None) -> None:
    """Sign person tokens with a new key; tokens of the one before work until they expire."""
    with opened(config) as system:
        system.keys.tokens.rotate(system.config.governance.operator_tenant)
    say("new person tokens are signed with a new key")


@app.command("rotate-secret")
def rotate_secret(
    name: Annotated[
        str, typer.Argument(metavar="cache_salt|person_tokens", help="Secret of this server.")
    ],
    config: ConfigOption = None,
) -> None:
    """Make a new secret; the older ones serve what they have signed or named.

    Running servers use it within `governance.secrets.refresh_seconds`. Stored KV moves to it as requests
    use it. Secrets with a source (`governance.secrets`) are rotated there.
    """
    if name not in (CACHE_SALT, PERSON_TOKENS):
        raise BadRequest(f"there is no secret {name!r}: {CACHE_SALT}, {PERSON_TOKENS}")
    with opened(config) as system:
        system.keys.secrets.rotate(name)
        tenant = system.config.governance.operator_tenant
        system.audit.note(administrator(tenant), "secret.rotate", name, {})
        seconds = system.config.governance.secrets.refresh_seconds
    say(f"{name} is rotated; running servers use the new secret within {seconds:g} s")


def parse_duration(text: str, option: str = "--expires-in") -> int:
    """Parse a duration (`30d`, `12h`, `45m`, `3600s`, `2w`) into seconds. Raises BadRequest."""
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = int(match.group(1)) * _UNIT_SECONDS[match.group(2)] if match else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise BadRequest(
            f"{option} {text!r}: give a number and a unit, such as 30d, 12h or 3600s "
            "(s, m, h, d, w; at most 100 years)"
        )
    return seconds


def _state(revoked_us: int | None, expires_us: int | None) -> str:
    if revoked_us is not None:
        return "revoked"
    return "expired" if expires_us is not None and expires_us <= now_us() else "active"
