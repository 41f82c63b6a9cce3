"""`nanoclaw freeze`, `unfreeze`, `freezes`: the kill switch."""

from typing import Annotated

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli.channels import broker, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, show, show_list
from nanoclaw_cli.words import LEVELS, when

app = typer.Typer()

Group = Annotated[str, typer.Option("--group", "-g", help="This group's calls only.")]
Provider = Annotated[str, typer.Option("--provider", "-p", help="Calls to this provider only.")]


def target(one: pb.CallFreeze) -> str:
    """Whom a freeze stops, in words."""
    if one.group:
        return f"group {one.group}"
    return f"provider {one.provider}" if one.provider else "all calls"


COLUMNS: Columns = {
    "frozen": target,
    "at most": lambda one: LEVELS.word(one.max_level),
    "reason": lambda one: one.reason,
    "by": lambda one: one.principal,
    "since": lambda one: when(one, "frozen_at"),
}


@command(app, mutates=True)
async def freeze(
    level: Annotated[int, LEVELS.argument()],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Shown to those who are stopped.")],
    group: Group = "",
    provider: Provider = "",
) -> None:
    """Stops calls above a level, at once: L0 stops all. Of everybody, or of one group or provider."""
    request = pb.FreezeRequest(
        request_id=current().request_id,
        group=group,
        provider=provider,
        max_level=level,  # type: ignore[arg-type]
        reason=reason,
    )
    async with broker() as stub:
        frozen = (await stub.Freeze(request)).freeze
    show(frozen, [(name, str(column(frozen))) for name, column in COLUMNS.items()], "frozen")


@command(app, mutates=True)
async def unfreeze(
    group: Group = "", provider: Provider = "", reason: Annotated[str, typer.Option("--reason", "-r")] = ""
) -> None:
    """Lifts a freeze: that of all calls, or of one group or provider."""
    request = pb.UnfreezeRequest(request_id=current().request_id, group=group, provider=provider, reason=reason)
    async with broker() as stub:
        answer = await stub.Unfreeze(request)
    if current().as_json:
        say_json(answer)
    else:
        what = target(pb.CallFreeze(group=group, provider=provider))
        say(f"{what}: no longer frozen" if answer.changed else f"{what}: was not frozen")


@command(app)
async def freezes() -> None:
    """What is frozen now."""
    async with broker() as stub:
        found = await pages(stub.ListFreezes, pb.ListFreezesRequest(), "freezes", 0)
    show_list(found, COLUMNS, "nothing is frozen")
