"""`nanoclaw secrets`: which secrets the providers need, which are there, what is wrong with their files."""

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli import channels
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, show_list
from nanoclaw_cli.secret_findings import Finding, by_files, by_uses
from nanoclaw_cli.services import SERVICES

app = typer.Typer(no_args_is_help=True, help="The broker's secrets, by name: never a value.")

COLUMNS: Columns = {
    "secret": lambda one: one.name,
    "state": lambda one: one.state,
    "used by": lambda one: ", ".join(one.used_by) or "–",
    "": lambda one: one.note,
}


@app.callback()
def _secrets() -> None:
    """Keeps `check` a subcommand."""


@command(app)
async def check() -> None:
    """What providers need and the broker lacks, what nobody uses, files it can't take. Exit code 1 if one is wrong.

    Where the broker does not run, or only its port can be reached, one half of it is known.
    """
    given = current()
    service = next(service for service in SERVICES if service.name == "broker")
    files = [] if given.at else by_files(given.secrets_folder / "broker")
    running = bool(given.at) or service.socket(given.home).exists()
    found = await _asked(files) if running else files
    wrong = any(one.wrong for one in found)
    if given.as_json:
        say_json({"ok": not wrong, "broker_asked": running, "secrets": [one.as_dict() for one in found]})
    else:
        show_list(found, COLUMNS, "no secrets")
        if not running:
            say("the broker does not run, so what its providers miss is not known")
    if wrong:
        raise typer.Exit(1)


async def _asked(files: list[Finding]) -> list[Finding]:
    async with channels.broker() as stub:
        providers = await channels.pages(stub.ListProviders, pb.ListProvidersRequest(), "providers", 0)
        held = (await stub.GetStatus(pb.GetStatusRequest())).secrets
    return by_uses(providers, held, files)
