"""`nanoclaw audit`: proves, offline, that the log is whole and that the state is its fold."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from nanoclaw_cli.invocation import command, current
from nanoclaw_core.errors import Kind, NanoclawError

app = typer.Typer(no_args_is_help=True, help="The log: is it whole?")


@app.callback()
def _audit() -> None:
    """Keeps `verify` a subcommand."""


@command(app)
async def verify(
    path: Annotated[
        Path | None, typer.Argument(help="A database file or a backup of one; without: that of the home.")
    ] = None,
) -> None:
    """Checks the hash chain of every log and rebuilds the state from it. Needs no service. Exit code 1 if broken."""
    database = path or current().home / "store" / "nanoclaw.db"
    if not database.is_file():
        raise NanoclawError(
            Kind.NOT_FOUND,
            "DATABASE_NOT_FOUND",
            f"there is no database at {database}",
            next_step="name a file, or another home with --home",
        )
    # SQLAlchemy: no other command pays for loading it.
    from nanoclaw_cli.audit_view import show
    from nanoclaw_store import verify as verify_database

    report = await asyncio.to_thread(verify_database, database)
    show(database, report)
    if not report.ok:
        raise typer.Exit(1)
