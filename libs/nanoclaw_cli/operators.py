"""`nanoclaw operator`: who may use the system from outside."""

from typing import Annotated

import typer

from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import say, say_json
from nanoclaw_core.errors import invalid
from nanoclaw_core.principal import Role
from nanoclaw_rpc import Credentials

app = typer.Typer(no_args_is_help=True, help="Operators and their tokens.")

Name = Annotated[str, typer.Argument()]


@command(app)
async def add(
    name: Name,
    role: Annotated[str, typer.Option(metavar="admin|approver|viewer", help="What the operator may do.")],
) -> None:
    """Makes a token for a new operator. In force at once."""
    try:
        wanted = Role(role)
    except ValueError:
        raise invalid("role", f"{role!r} is no role", "choose admin, approver or viewer") from None
    path = Credentials.open(current().secrets_folder).add_operator(name, wanted)
    if current().as_json:
        say_json({"principal": f"operator:{name}", "role": role, "token_file": str(path)})
    else:
        say(f"operator:{name} is {role}; the token is in {path}")


@command(app)
async def remove(name: Name) -> None:
    """Takes an operator's tokens back. In force at once."""
    Credentials.open(current().secrets_folder).remove(f"operator:{name}")
    if current().as_json:
        say_json({"principal": f"operator:{name}", "removed": True})
    else:
        say(f"operator:{name} has no token any more")
