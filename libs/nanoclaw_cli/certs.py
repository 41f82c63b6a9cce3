"""`nanoclaw certs`: the certificates with which services and operators prove who they are over TCP."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, show_list
from nanoclaw_core.addresses import is_loopback
from nanoclaw_core.errors import invalid
from nanoclaw_rpc import Credentials

if TYPE_CHECKING:  # its library is loaded by the commands that need it
    from nanoclaw_rpc.authority import Authority

app = typer.Typer(no_args_is_help=True, help="Certificates for mutual TLS: make, show, renew.")
authorities = typer.Typer(no_args_is_help=True, help="Replace the certificate authority without downtime.")
app.add_typer(authorities, name="ca")

SOON_DAYS = 14

Days = Annotated[int, typer.Option(min=1, help="How long the certificates are good.")]
AuthorityDays = Annotated[int, typer.Option("--ca-days", min=1, help="How long the authority is good.")]
Key = Annotated[
    Path | None, typer.Option("--ca-key", help="The authority's key, where it is not kept beside its certificate.")
]

COLUMNS: Columns = {
    "whose": lambda one: one["principal"],
    "until": lambda one: one["not_after"][:10],
    "days left": lambda one: one["days_left"],
    "state": lambda one: one["state"],
    "authority": lambda one: one["authority"],
    "hosts": lambda one: "\n".join(host for host in one["hosts"] if not is_loopback(host)) or "–",
}


@command(app)
async def init(
    days: Days = 365,
    ca_days: AuthorityDays = 3650,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=HOST", help="A further name or address of a service; repeat it."),
    ] = None,
) -> None:
    """Makes the authority and a certificate for each service. Overwrites nothing."""
    hosts: dict[str, list[str]] = {}
    for one in host or []:
        service, separator, name = one.partition("=")
        if not separator or service not in _services():
            raise invalid("host", f"{one!r} is not SERVICE=HOST", f"name one of {', '.join(_services())}, then a host")
        hosts.setdefault(service, []).append(name)
    authority = _authority(None)
    held = authority.create(days=days, authority_days=ca_days, hosts=hosts)
    _show(authority, [one.principal for one in held])


@command(app)
async def operator(name: Annotated[str, typer.Argument()], days: Days = 365, ca_key: Key = None) -> None:
    """Makes a certificate for an operator, who must be known (`nanoclaw operator add`)."""
    principal = f"operator:{name}"
    if Credentials.open(current().secrets_folder).find(principal) is None:
        raise invalid("name", f"there is no operator {name!r}", "make the operator with `nanoclaw operator add`")
    authority = _authority(ca_key)
    authority.issue(principal, days=days)
    _show(authority, [principal])


@command(app)
async def renew(
    principals: Annotated[
        list[str] | None, typer.Argument(metavar="[PRINCIPAL]...", help="service:NAME or operator:NAME; none: all.")
    ] = None,
    days: Days = 365,
    within: Annotated[int | None, typer.Option(min=0, help="Only those that end within so many days.")] = None,
    ca_key: Key = None,
) -> None:
    """Makes certificates anew, with new keys. Running services take them up by themselves."""
    authority = _authority(ca_key)
    renewed = authority.renew(principals or [], days=days, within=within)
    _show(authority, [one.principal for one in renewed], "nothing to renew")


@command(app, "show")
async def show_all() -> None:
    """Who has a certificate, and for how many days more."""
    authority = _authority(None)
    _show(authority, [one.principal for one in authority.held()], with_authorities=True)


@command(authorities, "add")
async def add_authority(ca_days: AuthorityDays = 3650, ca_key: Key = None) -> None:
    """Makes a new authority: trusted beside the old one at once, and signing from the next `renew` on."""
    authority = _authority(ca_key)
    authority.succeed(days=ca_days)
    _show(authority, [], with_authorities=True)


@command(authorities, "drop")
async def drop_authorities(ca_key: Key = None) -> None:
    """Trusts the newest authority alone. Refused while a certificate here is signed by an old one."""
    authority = _authority(ca_key)
    authority.retire()
    _show(authority, [], with_authorities=True)


def _services() -> Sequence[str]:
    from nanoclaw_rpc.credentials import SERVICES

    return SERVICES


def _authority(key: Path | None) -> "Authority":
    from nanoclaw_rpc.authority import Authority

    return Authority(current().secrets_folder, key=key)


def _show(
    authority: "Authority", principals: Sequence[str], none: str = "no certificates", *, with_authorities: bool = False
) -> None:
    newest, *old = authority.authorities()
    rows = [
        _row(one.principal, one.certificate, one.path, one.is_current)
        for one in authority.held()
        if one.principal in principals
    ]
    if with_authorities:
        rows = [
            *rows,
            _row("authority", newest, authority.bundle, True),
            *(_row("authority", one, authority.bundle, False) for one in old),
        ]
    if current().as_json:
        say_json(rows)
    else:
        show_list(rows, COLUMNS, none)
        say(f"authority  {authority.bundle}, its key {authority.key}")


def _row(principal: str, certificate: Any, path: Path, newest: bool) -> dict[str, Any]:
    from nanoclaw_rpc.certificates import hosts_of

    left = certificate.not_valid_after_utc - datetime.now(UTC)
    state = "expired" if left <= timedelta(0) else "ends soon" if left < timedelta(days=SOON_DAYS) else "good"
    return {
        "principal": principal,
        "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "days_left": left.days,
        "state": state,
        "authority": "newest" if newest else "old",
        "hosts": [str(name.value) for name in hosts_of(certificate)],
        "serial": f"{certificate.serial_number:x}",
        "file": str(path),
    }
