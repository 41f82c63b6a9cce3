"""`nanoclaw provision`: makes what the services find ready in their containers: folders, tokens, certificates.

Runs as root in a container of its own before the others, as often as wanted; it changes only what is not right. Each
service is given a folder with its own secrets and no other's, and files are replaced whole, so that a running service
sees the new ones.

    NANOCLAW_HOME/{attempts,ipc,groups,config,…}    of the services' user
    NANOCLAW_SECRETS/…                              of --owner: everything, as in a home of one machine
    NANOCLAW_SECRETS/containers/{service}/…         of the services' user: the part of that service
"""

import os
import secrets as random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import say, say_json
from nanoclaw_cli.services import SERVICES
from nanoclaw_core.errors import invalid
from nanoclaw_rpc import Credentials

SERVICES_UID = 10001
"""User and group of the services in their image."""

FOLDERS = {"attempts": 0o751, "ipc": 0o751, "groups": 0o751, "config": 0o755}
"""What containers bind, with its mode: agents' containers reach into the first three, by name."""

RENEW_WITHIN_DAYS = 30
FOUNDER = "operator:founder"

COVERED = ("store", "run", "logs", "secrets")
"""Where the gateway's container has something else mounted over its home; made here, so that no engine makes them."""

app = typer.Typer()


@command(app)
async def provision(
    owner: Annotated[str, typer.Option(metavar="UID:GID", help="Whose the operators' files are.")] = "0:0",
) -> None:
    """Prepares NANOCLAW_HOME and NANOCLAW_SECRETS for the containers of compose.yaml. Run as root; run again freely."""
    uid, gid = _owner(owner)
    home, folder = current().home, current().secrets_folder
    for name, mode in {**FOLDERS, **dict.fromkeys(COVERED, 0o755)}.items():
        (home / name).mkdir(parents=True, exist_ok=True)
        _give(home / name, SERVICES_UID, SERVICES_UID, mode)
    Credentials.open(folder)
    _certify(folder)
    _make_key(folder / "broker.key")
    (folder / "broker").mkdir(exist_ok=True, mode=0o700)
    changed = [name for name in (service.name for service in SERVICES) if _hand_out(folder, name)]
    _own(folder, uid, gid)
    if current().as_json:
        say_json({"home": str(home), "secrets": str(folder), "changed": changed})
    else:
        say(f"ready; new secrets for {', '.join(changed)}" if changed else "ready; nothing to change")


def _certify(folder: Path) -> None:
    """An authority with the services' and the founder's certificates; those that are about to end are made anew."""
    from nanoclaw_rpc.authority import AUTHORITY_DAYS, CERTIFICATE_DAYS, Authority  # loads a library of its own

    authority = Authority(folder)
    if not authority.bundle.exists() or (authority.has_key and authority.lacking()):
        authority.create(days=CERTIFICATE_DAYS, authority_days=AUTHORITY_DAYS, hosts={})
    if FOUNDER not in {held.principal for held in authority.held()}:
        authority.issue(FOUNDER, days=CERTIFICATE_DAYS)
    if authority.has_key:  # where it is kept elsewhere, only a person can renew
        authority.renew(days=CERTIFICATE_DAYS, within=RENEW_WITHIN_DAYS)


def parts(service: str) -> Iterator[str]:
    """What of the secrets a service is given, as paths below their folder."""
    yield "credentials.json"
    yield f"services/{service}.token"
    yield f"tls/services/{service}"
    if service == "broker":
        yield "broker.key"
        yield "broker"


def _hand_out(folder: Path, service: str) -> bool:
    """Copies a service's part; answers whether anything changed."""
    target = folder / "containers" / service
    target.mkdir(parents=True, exist_ok=True)
    wanted: dict[Path, bytes] = {}
    for part in parts(service):
        found = folder / part
        for path in sorted(found.rglob("*")) if found.is_dir() else [found]:
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                wanted[path.relative_to(folder)] = path.read_bytes()
    here = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    for gone in here - wanted.keys():
        (target / gone).unlink()
    stale = [name for name, content in wanted.items() if name not in here or (target / name).read_bytes() != content]
    for name in stale:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _replace(target / name, wanted[name])
    for path in (target, *(path for path in target.rglob("*") if path.is_dir())):
        _give(path, SERVICES_UID, SERVICES_UID, 0o500)
    return bool(stale or here - wanted.keys())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(descriptor, SERVICES_UID, SERVICES_UID)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _own(folder: Path, uid: int, gid: int) -> None:
    """Everything else is the owner's; the folders on the way to a container's part can be passed through."""
    for path in (folder, folder / "containers"):
        _give(path, uid, gid, 0o711)
    for top in folder.iterdir():
        if top.name != "containers":
            for path in (top, *top.rglob("*")):
                os.chown(path, uid, gid, follow_symlinks=False)


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    found = path.stat()
    if (found.st_uid, found.st_gid) != (uid, gid):
        os.chown(path, uid, gid)
    path.chmod(mode)


def _make_key(path: Path) -> None:
    """The broker's key as it makes it itself where it may write: 32 bytes in hex. Never over another one."""
    if path.exists():
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(random.token_hex(32) + "\n")
        file.flush()
        os.fsync(descriptor)


def _owner(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise invalid("owner", f"{text!r} is not UID:GID", "give two numbers, as `id -u` and `id -g` say them")
    return int(uid), int(gid)
