"""`nanoclaw budget`: what groups may spend, have reserved and have spent."""

from typing import Annotated

import typer

from nanoclaw.runtime.v1 import runtime_pb2 as pb
from nanoclaw_cli.channels import runtime
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, show_list
from nanoclaw_cli.words import PERIODS, when

app = typer.Typer(no_args_is_help=True, help="What calls may cost.")

MICROS_PER_CENT = 10_000
Group = Annotated[str, typer.Argument(help="The group; `all` for all groups together.")]
Reason = Annotated[str, typer.Option("--reason", "-r")]


def _cents(micros: int) -> str:
    return f"{micros / MICROS_PER_CENT:.2f}"


COLUMNS: Columns = {
    "group": lambda line: line.group or "all together",
    "over": lambda line: PERIODS.word(line.period),
    "limit (cents)": lambda line: str(line.limit_cents) + (" (default)" if line.is_default else ""),
    "reserved": lambda line: _cents(line.reserved_micros),
    "spent": lambda line: _cents(line.spent_micros),
    "left": lambda line: _cents(line.left_micros),
    "resets": lambda line: when(line, "resets_at"),
}


def _name(group: str) -> str:
    return "" if group == "all" else group


def _show(budget: pb.GetBudgetResponse) -> None:
    if current().as_json:
        say_json(budget)
        return
    show_list(list(budget.lines), COLUMNS, "no limit is set")
    if budget.frozen:
        say(f"spending is frozen: {budget.frozen_reason}; `nanoclaw budget resume` ends that")


@command(app)
async def show(group: Group) -> None:
    """What a group may spend, and has."""
    async with runtime() as stub:
        budget = await stub.GetBudget(pb.GetBudgetRequest(group=_name(group)))
    _show(budget)


@command(app, name="set", mutates=True)
async def set_(
    group: Group,
    over: Annotated[int, PERIODS.argument()],
    cents: Annotated[
        int | None, typer.Argument(min=0, help="0 lets nothing through that costs; without: the default.")
    ] = None,
    reason: Reason = "",
) -> None:
    """Sets a limit, in force for the next call. Main may lower it, an operator raise it."""
    request = pb.SetBudgetRequest(
        request_id=current().request_id,
        group=_name(group),
        period=over,  # type: ignore[arg-type]
        limit_cents=cents,
        reason=reason,
    )
    async with runtime() as stub:
        answer = await stub.SetBudget(request)
    _show(answer.budget)


@command(app, mutates=True)
async def resume(group: Group, reason: Reason = "") -> None:
    """Lets a group spend again after a call that cost more than was reserved for it."""
    request = pb.SetBudgetRequest(request_id=current().request_id, group=_name(group), resume=True, reason=reason)
    async with runtime() as stub:
        answer = await stub.SetBudget(request)
    _show(answer.budget)
