"""The `nanoclaw` command: every noun is a file of its own."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nanoclaw_cli import (
    audit,
    budget,
    call,
    calls,
    certs,
    containers,
    dispatch,
    freezes,
    given_environ,
    grants,
    invocation,
    messages,
    operators,
    product,
    provision,
    secrets,
    status,
    task,
    task_review,
    up,
)
from nanoclaw_cli.invocation import DEFAULT_HOME
from nanoclaw_cli.output import console, say_error, say_json
from nanoclaw_core import VERSION
from nanoclaw_core.errors import NanoclawError, file_failed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="NanoClaw OS: governs teams of AI agents. Every command takes --json.",
)
for nouns in (up.app, status.app, containers.app, provision.app):
    app.add_typer(nouns)
app.add_typer(task.app, name="task")
app.add_typer(product.app, name="product")
app.add_typer(task_review.alone)
app.add_typer(grants.app)
app.add_typer(freezes.app)
app.add_typer(call.app, name="call")
app.add_typer(budget.app, name="budget")
app.add_typer(calls.app, name="calls")
app.add_typer(dispatch.app, name="dispatch")
app.add_typer(messages.app)
app.add_typer(audit.app, name="audit")
app.add_typer(operators.app, name="operator")
app.add_typer(certs.app, name="certs")
app.add_typer(secrets.app, name="secrets")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nanoclaw {VERSION}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    home: Annotated[Path, typer.Option(envvar="NANOCLAW_HOME", help="Where everything lies.")] = DEFAULT_HOME,
    operator: Annotated[
        str, typer.Option("--as", envvar="NANOCLAW_OPERATOR", help="The operator whose token is used.")
    ] = "founder",
    secrets: Annotated[
        Path | None, typer.Option(envvar="NANOCLAW_SECRETS", help="Where tokens lie, if not in the home.")
    ] = None,
    at: Annotated[
        str,
        typer.Option(envvar="NANOCLAW_AT", help="HOST of ports 50051-50054, or NAME=HOST:PORT,…; else sockets."),
    ] = "",
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", envvar="NANOCLAW_TLS_ENABLED", help="Mutual TLS with --at.")
    ] = False,
    tls_dir: Annotated[
        Path | None,
        typer.Option(envvar="NANOCLAW_TLS_DIR", help="Where the operator's ca.crt, tls.crt and tls.key lie."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """What all commands share."""
    given = invocation.Invocation(
        home.absolute(),
        operator,
        secrets=secrets.absolute() if secrets else None,
        at=at,
        tls_enabled=tls,
        tls_dir=tls_dir.absolute() if tls_dir else None,
    )
    context.with_resource(invocation.running(given))


@app.command()
def demo(
    context: typer.Context,
    compose: Annotated[
        str, typer.Option(help="Play in containers that run already; what runs compose: deploy/compose.")
    ] = "",
    traces: Annotated[str, typer.Option(help="With --compose: where Jaeger's pages are.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="How it ended as JSON; the show on stderr.")] = False,
) -> None:
    """The main job, live: governed tasks through every state, agents at work, gates, a brokered call, the trace."""
    from nanoclaw_cli.demo import demo as play  # their libraries are needed nowhere else
    from nanoclaw_cli.stage import Containers, Processes, Stage

    given = invocation.current()
    stage: Stage = Containers(given, compose, traces) if compose else Processes(given.home, given_environ())
    if not asyncio.run(play(stage, console(stderr=as_json), say_json if as_json else None)):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command (sys.argv's) and exits: a refusal is one line and exit code 1, wrong usage exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(given, prog_name="nanoclaw")
    except NanoclawError as error:
        say_error(error, "--json" in given)
        sys.exit(1)
    except OSError as error:
        say_error(file_failed(error), "--json" in given)
        sys.exit(1)


if __name__ == "__main__":
    main()
